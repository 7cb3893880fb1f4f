"""The entry to sandboxes: find one that works on this machine by running it, and run a box in it."""

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.errors import OfflineKitError, OutsideError, ProjectError
from offline_kit.core.files import format_size
from offline_kit.core.report import SILENT, Reporter
from offline_kit.core.sandboxes import containers, engines
from offline_kit.core.sandboxes.box import Box, BoxOutcome, Mount
from offline_kit.core.sandboxes.folder_watch import FolderWatch
from offline_kit.core.sandboxes.process_tree import MemoryCurve, MemorySample, ProcessTree

KINDS = ("bubblewrap", "weak")
_PROBE = (
    "cd /kaggle/input && ! true 2>/dev/null > x && true > /kaggle/working/x"
    ' && [ "$(grep -c . /proc/net/route)" -le 1 ] || { echo "the network or the inputs are open"; exit 1; }'
)
_PROBE_MEMORY = 1 << 28  # a container without root may not have a limit of memory
_TICK = 0.1  # seconds between two samples of the memory
_GRACE = 1.0  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """A sandbox that works on this machine."""

    kind: str
    program: Path | None  # None for the weak one
    refused: tuple[str, ...] = ()  # better ones that did not work, each with its last line of output
    image: str = ""  # of a container: what it runs
    command: tuple[str, ...] = ()  # of a container: what runs one on this machine

    @property
    def is_weak(self) -> bool:
        """Whether it only puts obstacles in the way and proves nothing."""
        return self.kind == "weak"

    def path_prefix(self, scratch: Path) -> str:
        """Return what precedes every path in the box: nothing, except in the weak sandbox."""
        return str(scratch) if self.is_weak else ""

    def find_digest(self) -> str:
        """Return the reference of a container's image by its digest; "" for an image that was built here."""
        known = containers.inspect_image(self.program, self.image) if self.program else None
        digests = [str(digest) for digest in (known or {}).get("RepoDigests") or ()]
        name = self.image.partition("@")[0].rpartition("/")[2].partition(":")[0]
        # An image may have been pulled from several registries.
        return min(digests, key=lambda digest: f"/{name}@" not in digest, default="")


def find_sandbox(kinds: Iterable[str] = KINDS, *, report: Reporter = SILENT) -> Sandbox:
    """Return the best of these kinds that works, found by running each; warn if it is the weak one.

    Raises OutsideError if none works.
    """
    refused: list[str] = []
    for kind, program in _list_candidates(kinds):
        candidate = Sandbox(kind=kind, program=program, refused=tuple(refused))
        if candidate.is_weak:
            report.warn(
                "no real sandbox works here; the rehearsal runs behind weak obstacles only: Python sockets are"
                f" refused, nothing else is proven ({'; '.join(refused) or 'bubblewrap is missing'})"
            )
        elif problem := _probe_sandbox(candidate):
            refused.append(f"{program}: {problem}")
            continue
        return candidate
    raise OutsideError(
        "no sandbox works on this machine",
        code="sandbox-missing",
        hint="on Linux install bubblewrap (`apt install bubblewrap`), or allow user namespaces"
        " (`sysctl kernel.apparmor_restrict_unprivileged_userns=0`); elsewhere use docker or WSL2",
        details=refused,
    )


def find_container(
    image: str, *, online: bool = True, confirm_pull: Callable[[str], bool] | None = None
) -> Sandbox:
    """Return a container engine that runs this image on this machine, found by running it.

    An image is pulled only if `confirm_pull`, which asks a person, agrees. Raises OutsideError if no engine works or a
    pull failed, ProjectError if the image was not pulled; with `online`, its registry is asked for its size.
    """
    refused: list[str] = []
    without_image: list[Path] = []
    for program in containers.find_engines():
        if problem := containers.find_problem(program):
            refused.append(f"{program}: {problem}")
        elif containers.inspect_image(program, image) is None:
            without_image.append(program)
        else:
            for command in containers.list_commands(program):
                candidate = Sandbox(kind="container", program=program, image=image, command=command)
                if not (problem := _probe_sandbox(candidate)):
                    return candidate
                refused.append(f"{' '.join(command)}: {problem}")
    if without_image:
        program = without_image[0]
        size = containers.find_pull_size(program, image) if online else 0
        size_text = format_size(size) if size else "10 to 20 GB if it is one of Kaggle's"
        if confirm_pull and confirm_pull(f"Pull '{image}' with {program.name}, {size_text}?"):
            _pull_image(program, image)
            return find_container(image, online=online)
        raise ProjectError(
            f"the container image '{image}' is not on this machine",
            hint=f"run '{program.name} pull {image}', {size_text}",
            code="image-not-pulled",
            details=refused,
        )
    raise OutsideError(
        "no container engine works on this machine",
        hint="install podman (`apt install podman`) or docker, or rehearse with --env matching",
        code="container-engine-missing",
        details=refused,
    )


def _pull_image(program: Path, image: str) -> None:
    """Pull an image, with the engine's own progress on the terminal."""
    if processes.run_in_terminal([program, "pull", image]):
        raise OutsideError(
            f"'{program.name} pull {image}' failed",
            hint="fix what it printed above; what it downloaded is kept",
            code="image-pull-failed",
        )


def _list_candidates(kinds: Iterable[str]) -> Iterator[tuple[str, Path | None]]:
    for kind in kinds:
        if kind == "weak" and sys.platform != "win32":  # it needs symbolic links and process groups
            yield kind, None
        elif sys.platform == "linux":
            yield from ((kind, program) for program in engines.find_bubblewrap())


def _probe_sandbox(candidate: Sandbox) -> str:
    """Run a small script with each sort of mount; return what went wrong, or ""."""
    with tempfile.TemporaryDirectory(prefix="offline-kit-probe.") as name:
        folder = Path(name)
        for part in ("input", "working", "scratch"):
            (folder / part).mkdir()
        box = Box(
            argv=("/bin/sh", "-c", _PROBE),
            mounts=(
                Mount(inside="/kaggle/input", source=folder / "input"),
                Mount(inside="/kaggle/working", source=folder / "working", writable=True),
            ),
            env={"PATH": "/usr/bin:/bin"},
            cwd="/",
            log=folder / "log",
            scratch=folder / "scratch",
            timeout=60 if candidate.image else 20,  # docker and podman first unpack a new image
            memory=_PROBE_MEMORY,
        )
        try:
            outcome = run_box(candidate, box)
        except OfflineKitError as error:
            return error.what
        if outcome.succeeded and (folder / "working" / "x").exists():
            return ""
        lines = box.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ended with code {outcome.code}"


def run_box(sandbox: Sandbox, box: Box, *, watch: Callable[[int], None] = lambda _memory: None) -> BoxOutcome:
    """Run a box to its end or a limit; none of its processes survives the call.

    `watch` is called about ten times a second with the bytes that its processes hold, and with 0 once they ended. An
    interrupt ends the box and is raised again.
    """
    container = containers.ContainerTree(Path(sandbox.command[0]), box.scratch) if sandbox.image else None
    argv, env = build_command(sandbox, box, container.name if container else "")
    began, started = time.monotonic(), time.time()
    with processes.limit_cores(box.cores):
        cwd = Path(box.cwd) if sandbox.is_weak else box.scratch  # podman's monitor leaves files in it
        process = processes.start_process(argv, cwd=cwd, env=env, log=box.log)
    tree, curve = container or ProcessTree(process.pid), MemoryCurve()
    # A container's own limit ends it before, unless its engine lacks the rights to set one and only warns.
    limit = (box.memory or math.inf) * (1.25 if container else 1)
    folders = [FolderWatch(mount.source, mount.limit) for mount in box.mounts if mount.writable]
    timed_out = over_memory = over_disk = False
    try:
        while process.poll() is None and not (timed_out or over_memory or over_disk):
            sampled = time.monotonic()
            if memory := tree.sample_memory():
                curve.add_sample(MemorySample(sampled - began, memory))
            # A sample of a huge process takes long and holds its page tables: never more than a tenth of the time.
            pause = max(_TICK, 9 * (time.monotonic() - sampled))
            over_memory = memory > limit
            over_disk = not over_memory and any(folder.is_over() for folder in folders)
            timed_out = sampled - began > box.timeout and not (over_memory or over_disk)
            if not (timed_out or over_memory or over_disk):
                processes.wait_for_process(process, pause)
            watch(memory)
    finally:
        tree.list_pids()
        if process.poll() is None:
            processes.end_process(process, grace=_GRACE)
        tree.kill_remaining()
    watch(0)
    if container and not (timed_out or over_disk):
        over_memory = over_memory or containers.was_out_of_memory(box, process.returncode)
    return BoxOutcome(
        code=process.returncode,
        started=started,
        seconds=time.monotonic() - began,
        memory_curve=tuple(curve.samples),
        memory_by=tree.by,
        timed_out=timed_out,
        over_memory=over_memory,
        # Once more at its end: what it wrote last would not have fitted either.
        over_disk=over_disk or any(folder.is_over(now=True) for folder in folders),
    )


def build_command(sandbox: Sandbox, box: Box, container: str = "") -> tuple[list[str], Mapping[str, str]]:
    """Return the command and the environment that run a box in this sandbox; a container needs a name."""
    if sandbox.image:
        # The engine itself needs our environment: its sockets, its folders.
        words = containers.build_container_command(sandbox.command, sandbox.image, container, box)
        return words, processes.copy_environment()
    if sandbox.program is None:
        return engines.build_weak_command(box)
    return engines.build_bubblewrap_command(sandbox.program, box)
