"""Replay a recorded run: the same lines find offline, in the same places, what they fetched when it was recorded.

Nothing of the notebook is changed. pip and uv take wheels from a folder, git takes repositories from this disk, libraries
find their caches, and files lie where they lay; `kit_hooking` answers requests and commands.
"""

import atexit
import json
import os
import platform
import re
import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import kit_recording
from .kit_hooking import activate_hooks, install_hooks
from .kit_install import find_versions, list_moved
from .kit_report import report_at_end
from .kit_runtime import SessionFolders, check_format, go_offline, open_kit, report_failures, restore_names
from .kit_sources import SHOWN, remove_setup_names, show_sources

STATE = "replay.json"
"""File beside that of the misses: Python, and the versions that recorded packages have so far."""
PROTOCOL = "recorded"  # what git calls URLs of other machines by here, so that it asks our helper for them
_HELPER = """#!/bin/sh
exec '{python}' -c 'import sys; sys.path.insert(0, sys.argv[1])
from offline_kit_runtime.kit_replay import connect_repository
connect_repository(sys.argv[3])' '{hooks}' "$@"
"""


def open_recorded(
    parts: Mapping[str, str], attached: Mapping[str, Sequence[str]] | None = None, root: Path = SHOWN
) -> None:
    """Do all that the cells of a recorded notebook need before they run, and remove the setup's names from it.

    `parts` maps the kit's part to its id. With sources in `attached` (see `show_sources`), or files that the recording
    brings for a folder of the inputs, the cells read the inputs below `root`. Safe to call again.
    """
    report_failures()
    go_offline()
    folders = SessionFolders()
    os.environ[kit_recording.REPLAY] = str(open_kit(parts, folders).folder / "recording")
    document, objects = kit_recording.open_replay()
    check_format(document, kit_recording.DOCUMENT)
    kit_recording.redirect_caches()
    install_hooks(folders.scratch)
    moved = _compare_versions(document)
    report_at_end(folders, {"parts": dict(parts), "moved": moved, "installer": ""}, sys.path)
    _serve_wheels(document, objects, folders.scratch)
    _serve_repositories(document, objects, folders.scratch)
    kit_recording.restore_files()
    kit_recording.import_from_working()
    served = {
        f"input/{file['path'].partition('/')[2]}": objects.find_object(file["sha256"])
        for file in document["files"]
        if file["kind"] == "input"
    }
    if attached or served:
        show_sources(folders.inputs, attached or {}, served, root)
    activate_hooks()
    kit_recording.count_cells(
        [cell["cell"] for cell in document["cells"]], lambda _result: _write_state(document)
    )
    _write_state(document)
    atexit.register(_write_state, document)  # of a script
    print(f"recording: {kit_recording.count_recorded(document)}")
    remove_setup_names()


def _find_versions(document: Mapping[str, Any]) -> dict[str, str]:
    return find_versions([package["name"] for package in document["packages"]], sys.path)


def _compare_versions(document: Mapping[str, Any]) -> list[str]:
    """Print what is not here as it was in the recorded run, and return the versions that moved."""
    running = platform.python_version()
    if running.split(".")[:2] != str(document["python"]).split(".")[:2]:
        print(f"warning: this was recorded with Python {document['python']}, and this is Python {running}")
    if error := document["error"]:
        print(f"warning: the recorded run stopped in cell {error['cell']}: nothing is known of later cells")
    versions = _find_versions(document)
    moved = list_moved(list_replaced(document, versions), versions)
    if moved:
        print(f"note: not the versions that the image had when this was recorded: {', '.join(moved)}")
    return moved


def list_replaced(document: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, str]:
    """Return the versions that the recorded run found and replaced, without those that are what it installed."""
    return {
        package["name"]: package["replaces"]
        for package in document["packages"]
        if versions.get(package["name"]) != package["version"]
    }


def _write_state(document: Mapping[str, Any]) -> None:
    if path := os.environ.get(kit_recording.MISSES):
        state = {"python": platform.python_version(), "packages": _find_versions(document)}
        Path(path).with_name(STATE).write_text(json.dumps(state), encoding="utf-8")


def _serve_wheels(document: Mapping[str, Any], objects: kit_recording.RecordedObjects, scratch: Path) -> None:
    """Let pip and uv install from the recorded wheels alone, whatever index a line names."""
    wheels = {
        package["wheel"]: objects.find_object(package["sha256"])
        for package in (*document["packages"], *document["build_wheels"])
        if package["wheel"]
    }
    url = restore_names(wheels, scratch / "wheels").as_uri()  # pip splits values at spaces
    # uv 0.8 has no variable for `no-index`, and a `-f` on the line replaces UV_FIND_LINKS; to a file's it is added.
    settings = {"find-links": [url], "no-index": True, "offline": True}
    configuration = scratch / "uv.toml"
    configuration.write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()), encoding="utf-8"
    )
    # Neither Kaggle's image nor the one of Colab that it is made of sets these
    # (https://github.com/Kaggle/docker-python/blob/main/Dockerfile.tmpl).
    os.environ |= {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": url,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_RETRIES": "0",  # for the page of a `--find-links` on the line
        "UV_CONFIG_FILE": str(configuration),
    }


def _serve_repositories(
    document: Mapping[str, Any], objects: kit_recording.RecordedObjects, scratch: Path
) -> None:
    """Let git find recorded repositories under their URLs, and ask `connect_repository` for any other URL."""
    folder = scratch / "repositories"
    shutil.rmtree(folder, ignore_errors=True)
    # Submodules may use neither files (CVE-2022-39253) nor helpers unless they are allowed to
    # (https://git-scm.com/docs/git-config#Documentation/git-config.txt-protocolallow).
    values = [("protocol.file.allow", "always"), (f"protocol.{PROTOCOL}.allow", "always")]
    values += [
        (f"url.{PROTOCOL}::{start}.insteadOf", start) for start in ("https://", "http://", "ssh://", "git@")
    ]
    for number, repository in enumerate(document["repositories"]):
        with tarfile.open(objects.find_object(repository["sha256"])) as archive:
            # Pythons before 3.10.12 have no filters.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
            archive.extractall(folder / f"{number}.git")  # noqa: S202 - every byte was checked
        # `uv pip --offline` lets git use files and nothing else.
        local, url = (folder / f"{number}.git").as_uri(), _strip_url(repository["url"])
        values += [(f"url.{local}.insteadOf", spelling) for spelling in (url, f"{url}.git")]
    os.environ["GIT_CONFIG_COUNT"] = str(len(values))
    for number, (key, value) in enumerate(values):
        os.environ |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    helper = scratch / "hooks" / "bin" / f"git-remote-{PROTOCOL}"
    helper.parent.mkdir(exist_ok=True)
    helper.write_text(_HELPER.format(python=sys.executable, hooks=scratch / "hooks"), encoding="utf-8")
    helper.chmod(0o755)


def _strip_url(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", url).rstrip("/").removesuffix(".git")


def connect_repository(url: str) -> None:
    """Be git's helper for a URL that no rule names: connect it if it is recorded, but for its credentials.

    A clone of "https://user:token@host/name" is recorded without its user and token, and offline they may be empty.
    """
    urls = [_strip_url(repository["url"]) for repository in kit_recording.open_replay()[0]["repositories"]]
    if _strip_url(url) not in urls:
        kit_recording.report_miss("repository", url)
        sys.exit(128)
    folder = SessionFolders().scratch / "repositories" / f"{urls.index(_strip_url(url))}.git"
    # https://git-scm.com/docs/gitremote-helpers
    while command := _read_line():
        if command == "connect git-upload-pack":
            os.write(1, b"\n")
            os.execvp("git", ["git", "upload-pack", str(folder)])  # noqa: S606 - the one on PATH
        os.write(1, b"connect\n\n" if command == "capabilities" else b"fallback\n")


def _read_line() -> str:
    """Read a line, and not a byte more: the rest of the input is the next program's."""
    line = b""
    while (character := os.read(0, 1)) not in (b"\n", b""):
        line += character
    return line.decode()
