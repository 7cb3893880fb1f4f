"""Containers of podman or docker as sandboxes: an image of theirs, without the folders of this system."""

import csv
import io
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from offline_kit.core import processes
from offline_kit.core.sandboxes.box import Box
from offline_kit.core.sandboxes.process_tree import ProcessTree

_ENGINES = ("podman", "docker")
_PATIENCE = 60.0  # seconds that an engine may take for an answer
_ENGINE_FOLDER = "/run/offline-kit"  # in the container
_EVENTS, _IDENTITY = "memory.events", "container.id"
# The kernel kills the largest process of a full container, mostly the notebook's kernel and not the first process, and
# podman and docker do not agree on what "OOMKilled" says then. The counters are in memory.events (control groups v2) or
# memory.oom_control (v1): https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
_WRAPPER = (
    '"$@"; code=$?; cd /sys/fs/cgroup && cat memory.events memory/memory.oom_control'
    f" > {_ENGINE_FOLDER}/{_EVENTS} 2> /dev/null; exit $code"
)
_KILLED = re.compile(r"^oom_kill [1-9]", re.MULTILINE)
_CODE_KILLED = 137  # of a process that ended by SIGKILL, in a shell: 128 + 9


def find_engines() -> list[Path]:
    """Return the container engines of this machine; they may not work."""
    return [Path(program) for name in _ENGINES if (program := shutil.which(name))]


def find_problem(program: Path) -> str:
    """Return why an engine does not answer; "" if it does."""
    answer = _ask(program, "info")
    return "" if answer.succeeded else (answer.last_lines() or ("it does not answer",))[-1]


def inspect_image(program: Path, image: str) -> dict[str, Any] | None:
    """Return what an engine knows of an image that was pulled; None if it was not. Nothing is downloaded."""
    answer = _ask(program, "image", "inspect", image)
    return dict(json.loads(answer.out)[0]) if answer.succeeded else None


def find_pull_size(program: Path, image: str) -> int:
    """Return the bytes that a pull would download, by the manifest in the registry; 0 if nobody tells."""
    answer = processes.run_command([program, "manifest", "inspect", image], timeout=15, check=False)
    with suppress(ValueError, KeyError, TypeError):
        return sum(layer["size"] for layer in json.loads(answer.out)["layers"])
    return 0


def list_commands(program: Path) -> Iterator[tuple[str, ...]]:
    """Yield commands that run a container, without its own options; the first that works on this machine is right."""
    # crun refuses a system with control groups of both versions.
    has_runc = program.name == "podman" and shutil.which("runc")
    # In a virtual machine or a container the engine's own limits may be above those that may be set.
    for limits in ((), ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")):
        for runtime in ((), ("--runtime", "runc")) if has_runc else ((),):
            yield (str(program), *runtime, "run", "--user", _find_user(program), *limits)


def _find_user(program: Path) -> str:
    """Return the user in the container whose files are this user's outside: root as on Kaggle, if that can be."""
    # Without root, podman and a rootless docker map root to this user; another docker would leave files of root's.
    if sys.platform == "linux" and program.name == "docker":
        answer = _ask(program, "info", "--format", "{{.SecurityOptions}}")
        return "0:0" if "rootless" in answer.out else f"{os.getuid()}:{os.getgid()}"
    return "0:0"


def build_container_command(command: Sequence[str], image: str, name: str, box: Box) -> list[str]:
    """Return the command that runs a box in a container of this name; links of the box are those of its image."""
    # --pull never: an image of Kaggle's has 10 to 20 GB. SELinux would close the mounts unless it relabels them.
    fixed = "--pull never --log-driver none --hostname rehearsal --security-opt no-new-privileges --security-opt label=disable"
    words = [*command, "--name", name, "--cidfile", str(box.scratch / _IDENTITY), *fixed.split()]
    words += [] if box.network else ["--network", "none"]
    if box.memory:
        # No swap beside it. Engines give /dev/shm 64 MB, which a DataLoader's workers fill; it counts as memory.
        limit = str(box.memory)
        words += ["--memory", limit, "--memory-swap", limit, "--shm-size", limit]
    if box.cores and sys.platform == "linux":
        words += ["--cpuset-cpus", ",".join(map(str, sorted(os.sched_getaffinity(0))[: box.cores]))]
    words += ["--mount", _format_mount(box.scratch, _ENGINE_FOLDER, writable=True)]
    for mount in box.mounts:
        words += ["--mount", _format_mount(mount.source, mount.inside, writable=mount.writable)]
    for variable, value in box.env.items():
        words += ["--env", f"{variable}={value}"]
    return [*words, "--workdir", box.cwd, "--entrypoint", "/bin/sh", image, "-c", _WRAPPER, "sh", *box.argv]


def _format_mount(source: Path, inside: str, *, writable: bool) -> str:
    # --mount reads a line of CSV: unlike --volume it takes any path, and does not create a missing source.
    line = io.StringIO()
    fields = ("type=bind", f"src={source.absolute()}", f"dst={inside}", *(() if writable else ("ro",)))
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


class ContainerTree(ProcessTree):
    """The processes of a container, which an engine starts outside of the tree of its command.

    There are none if it runs on another system: in a virtual machine (Docker Desktop), or behind a socket.
    """

    def __init__(self, program: Path, scratch: Path) -> None:
        super().__init__(0)
        self.name = f"offline-kit-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._program = program
        self._identity = scratch / _IDENTITY

    def list_pids(self) -> list[int]:
        """Return its processes that are alive now: those whose control group has the container's id in its name."""
        identity = self._identity.read_text() if self._identity.is_file() else ""
        pids = []
        for group in Path("/proc").glob("[0-9]*/cgroup") if identity else ():
            with suppress(OSError):  # it has ended
                name = group.read_text()
                if identity in name and "conmon" not in name:  # podman's own process beside it
                    pids.append(int(group.parent.name))
        return pids

    def kill_remaining(self) -> None:
        """Kill and delete the container, whatever state it is in."""
        # Without it, podman waits ten seconds for the container to end by itself.
        _ask(self._program, "kill", self.name)
        _ask(self._program, "rm", "--force", "--volumes", self.name)


def was_out_of_memory(box: Box, code: int) -> bool:
    """Whether the memory limit of a box that has ended killed one of its processes."""
    events = box.scratch / _EVENTS
    counters = events.read_text() if events.is_file() else ""
    return box.memory is not None and (code == _CODE_KILLED or bool(_KILLED.search(counters)))


def _ask(program: Path, *words: str) -> processes.CompletedCommand:
    return processes.run_command([program, *words], timeout=_PATIENCE, check=False)
