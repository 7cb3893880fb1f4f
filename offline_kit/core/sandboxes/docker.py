"""The third sandbox: a docker engine of this Linux machine, used only to make namespaces.

The container is empty but for this system's own folders, read-only: nothing is downloaded, and the same environments
work. It is not Kaggle's image.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.errors import OfflineKitError
from offline_kit.core.sandboxes.box import Box, account_files, list_system_paths

_IMAGE = "offline-kit-empty:1"
_OWN_OF_DOCKER = ("/etc/hosts", "/etc/resolv.conf", "/sys")


def find_programs() -> list[Path]:
    """Return `docker` if an engine answers and the empty image can be made."""
    docker = processes.find_program("docker")
    if not docker:
        return []
    try:
        version = [str(docker), "version", "--format", "{{.Server.Os}}"]
        if not processes.run_command(version, check=False, timeout=10).succeeded:
            return []
        if not processes.run_command([docker, "image", "inspect", _IMAGE], check=False, timeout=20).succeeded:
            empty = f"tar -cf - --files-from /dev/null | '{docker}' import - {_IMAGE}"
            processes.run_command(["sh", "-c", empty], timeout=60)
    except OfflineKitError:
        return []
    return [docker]


def build_command(docker: Path, box: Box) -> tuple[list[str], Mapping[str, str]]:
    """Return the command that runs a box in a container, and the environment of docker's client."""
    words = [str(docker), "run", "--rm", "--network", "host" if box.network else "none", "--cap-drop", "ALL"]
    words += ["--name", container_name(box), "--hostname", "rehearsal", "--security-opt", "no-new-privileges"]
    words += ["--shm-size", "4g", "--user", f"{os.getuid()}:{os.getgid()}", "--workdir", box.cwd]
    # The container has no links of its own: /bin -> usr/bin is mounted as the folder that it means.
    volumes = [(path.resolve(), str(path), "ro") for path, _ in list_system_paths()]
    for name, text in account_files(os.getuid()).items():
        (box.scratch / name).write_text(text)
        volumes.append((box.scratch / name, f"/etc/{name}", "ro"))
    volumes += [(mount.source, mount.inside, "rw" if mount.writable else "ro") for mount in box.mounts]
    for link, target in box.links.items():
        volumes.append((Path(link).parent.joinpath(target).resolve(), link, "ro"))
    for source, inside, mode in volumes:
        words += ["--volume", f"{source}:{inside}:{mode}"] if inside not in _OWN_OF_DOCKER else []
    for name, value in box.env.items():
        words += ["--env", f"{name}={value}"]
    return [*words, _IMAGE, *box.argv], processes.copy_environment()


def container_name(box: Box) -> str:
    """Return the container's name, made from the scratch folder, which no other run has."""
    return "offline-kit-" + "".join(c for c in box.scratch.parent.name + box.scratch.name if c.isalnum())


def kill_container(docker: Path, box: Box) -> None:
    """End the container, if it still exists: the end of docker's client does not end it."""
    processes.run_command([docker, "kill", container_name(box)], check=False, timeout=30)


def first_process(docker: Path, box: Box) -> int | None:
    """Return the process id, on this machine, of the container's first process; None before it runs."""
    words = [str(docker), "inspect", "--format", "{{.State.Pid}}", container_name(box)]
    answer = processes.run_command(words, check=False, timeout=10)
    return int(answer.out) or None if answer.succeeded and answer.out.strip().isdigit() else None
