"""The third sandbox: a docker engine of this Linux machine, as a namespace maker only.

The container is empty but for this system's own folders, read-only, so nothing is downloaded and the
same environments serve. It is not Kaggle's image.
"""

import os
import sys
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.sandboxes.box import SYSTEM, Box, account_files, list_etc_entries

_IMAGE = "offline-kit-empty:1"
_OF_DOCKER = ("hosts", "resolv.conf")
"""Files that docker gives every container."""


def find_program() -> Path | None:
    """Return `docker` where an engine answers it and the empty image can be made; else None."""
    docker = processes.find_program("docker") if sys.platform == "linux" else None
    if not docker:
        return None
    try:
        if not processes.run_command(
            [docker, "version", "--format", "{{.Server.Os}}"], check=False, timeout=10
        ).succeeded:
            return None
        if not processes.run_command([docker, "image", "inspect", _IMAGE], check=False, timeout=20).succeeded:
            empty = f"tar -cf - --files-from /dev/null | '{docker}' import - {_IMAGE}"
            processes.run_command(["sh", "-c", empty], timeout=60)
    except OfflineKitError:
        return None
    return docker


def build_command(docker: Path, box: Box) -> list[str]:
    """Return the command that runs a box in a container, without network unless it may use this machine's."""
    words = [str(docker), "run", "--rm", "--network", "host" if box.network else "none", "--cap-drop", "ALL"]
    words += [
        "--name",
        container_name(box),
        "--security-opt",
        "no-new-privileges",
        "--hostname",
        "rehearsal",
        "--shm-size",
        "4g",
    ]
    words += ["--user", f"{os.getuid()}:{os.getgid()}", "--workdir", box.cwd]
    for name in SYSTEM:
        path = Path("/", name)
        # The container has no links of its own: /bin -> usr/bin is shown as the folder that it means.
        if path.is_dir() and name != "sys":
            words += _mount_option(path.resolve(), f"/{name}", writable=False)
    for path in list_etc_entries():
        if path.name not in _OF_DOCKER:
            words += _mount_option(path.resolve(), str(path), writable=False)
    for name, text in account_files(os.getuid()).items():
        (box.scratch / name).write_text(text)
        words += _mount_option(box.scratch / name, f"/etc/{name}", writable=False)
    for mount in box.mounts:
        words += _mount_option(mount.source, mount.inside, writable=mount.writable)
    for link, target in box.links.items():
        words += _mount_option(Path(link).parent.joinpath(target).resolve(), link, writable=False)
    for name, value in box.env.items():
        words += ["--env", f"{name}={value}"]
    return [*words, _IMAGE, *box.argv]


def container_name(box: Box) -> str:
    """Return the container's name: the scratch folder's, which no other run has."""
    return "offline-kit-" + "".join(c for c in box.scratch.parent.name + box.scratch.name if c.isalnum())


def _mount_option(source: Path, inside: str, *, writable: bool) -> list[str]:
    return ["--volume", f"{source}:{inside}:{'rw' if writable else 'ro'}"]


def kill_container(docker: Path, box: Box) -> None:
    """End the container, if it is still there: the client's end does not end it."""
    processes.run_command([docker, "kill", container_name(box)], check=False, timeout=30)


def first_process(docker: Path, box: Box) -> int | None:
    """Return the process id of the container's first process on this machine, or None before it runs."""
    answer = processes.run_command(
        [docker, "inspect", "--format", "{{.State.Pid}}", container_name(box)], check=False, timeout=10
    )
    return int(answer.out) if answer.succeeded and answer.out.strip().isdigit() and int(answer.out) else None
