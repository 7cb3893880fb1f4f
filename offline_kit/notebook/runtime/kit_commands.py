"""Stand-ins, first on PATH, for commands that download: they run the real one and record it, or replay what it did."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import kit_recording
from .kit_runtime import place_file

_SYSTEM = ("apt-get", "apt", "conda", "mamba")
COMMANDS = ("wget", "curl", "aria2c", "gdown", "hf", "huggingface-cli", "kaggle", *_SYSTEM)
_CONDA_CHANGES = {"install", "create", "update", "upgrade", "remove", "uninstall", "env"}
_LOCAL_URL = re.compile(r"(?:\w+://)?(?:localhost|127\.[\d.]+|\[::1\]|0\.0\.0\.0)(?::\d+)?(?:[/?].*)?")


def write_stand_ins(hooks: Path) -> None:
    """Write a program for every command; Python's own variables and start-up files do not reach it."""
    (hooks / "bin").mkdir(exist_ok=True)
    for name in COMMANDS:
        code = f"import sys; sys.path.insert(0, {str(hooks)!r})\n"
        code += "from offline_kit_runtime.kit_commands import run_command; run_command(sys.argv[1:])"
        words = shlex.join([sys.executable, "-IS", "-c", code, name])
        path = hooks / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        path.chmod(0o755)


def run_command(words: list[str]) -> None:
    """Run, record or replay a command, and exit with its code."""
    own = Path(__file__).parents[1] / "bin"
    path = os.pathsep.join(entry for entry in os.get_exec_path() if entry != str(own))
    program = shutil.which(words[0], path=path)
    if kit_recording.REPLAY in os.environ and not _is_live(words):
        sys.exit(_replay_command(words))
    if not program:
        print(f"{words[0]}: command not found", file=sys.stderr)
        sys.exit(127)
    if kit_recording.RECORDER not in os.environ or _is_live(words):
        os.execv(program, words)  # noqa: S606 - the user's command, as it is
    sys.exit(_record_command(program, words, path))


def _is_live(words: list[str]) -> bool:
    """Whether a command is never replayed: it asks this machine's own servers, or runs a program as `conda run` does."""
    verb = next((word for word in words[1:] if not word.startswith("-")), "")
    return any(map(_LOCAL_URL.fullmatch, words[1:])) or (
        words[0] in ("conda", "mamba") and verb not in _CONDA_CHANGES
    )


def _record_command(program: str, words: list[str], path: str) -> int:
    import fcntl  # Windows, where this module is only imported, has none

    # What it starts itself belongs to it.
    environ = {**os.environ, "PATH": path}
    recorder = Path(environ.pop(kit_recording.RECORDER))
    with (recorder / "commands.lock").open("a") as lock:
        # `wget a & wget b`: each file belongs to one of them. `curl list | wget -i -` would wait for ever.
        for _ in range(600):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.1)
        before = _list_files()
        with (
            tempfile.NamedTemporaryFile(dir=recorder) as output,
            subprocess.Popen(words, executable=program, env=environ, stdout=subprocess.PIPE) as process,
        ):
            # `x = !curl URL` is a terminal, too: IPython reads commands through one.
            while chunk := os.read(process.stdout.fileno(), 1 << 16):  # type: ignore[union-attr]
                output.write(chunk)
                with contextlib.suppress(BrokenPipeError):  # `| head`
                    os.write(1, chunk)
            output.flush()
            printed_file, is_small = Path(output.name), output.tell() < kit_recording.LARGE
            content = kit_recording.hide_in_bytes(printed_file.read_bytes()) if is_small else printed_file
            printed = kit_recording.add_object(content, is_final=True)
        after = _list_files()
        changed = [_store_file(file) for file in sorted(after) if after[file] != before.get(file)]
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    stored = [*filter(None, changed)]
    kit_recording.log_event(
        "command", **_identify(words), code=code, output=printed["sha256"], changed=stored
    )
    return code


def _store_file(path: str) -> dict[str, Any] | None:
    try:
        stored = kit_recording.add_object(Path(path))
    except OSError:  # another process has deleted it
        return None
    return {"path": kit_recording.name_path(path), **stored, "executable": os.access(path, os.X_OK)}


def _identify(words: list[str]) -> dict[str, Any]:
    return {
        "words": [kit_recording.redact(word) for word in words],
        "folder": kit_recording.name_path(Path.cwd()),
    }


def _make_key(command: Mapping[str, Any]) -> str:
    return kit_recording.remove_masks(json.dumps([command["folder"], command["words"]]))


def _list_files() -> dict[str, tuple[int, int]]:
    """Return size and time of the files that a command may have written for the notebook."""
    folders = kit_recording.root_folders()
    roots = {folders["working"], folders["tmp"], folders["home"], Path.cwd()} - {Path("/")}
    files: dict[str, tuple[int, int]] = {}
    walked = {str(folders["scratch"])}
    for root in roots:
        for folder, below, names in os.walk(root):
            if folder in walked or re.search(r"/(site|dist)-packages$", folder) or "conda-meta" in below:
                below.clear()
                continue
            walked.add(folder)
            if folder == str(folders["home"]):  # caches, and files with passwords
                below[:], names = ([name for name in kind if name[0] != "."] for kind in (below, names))
            for name in names:
                with contextlib.suppress(OSError):
                    status = os.stat(f"{folder}/{name}")  # noqa: PTH116 - of very many files
                    files[f"{folder}/{name}"] = (status.st_size, status.st_mtime_ns)
    return files


def _replay_command(words: list[str]) -> int:
    document, objects = kit_recording.open_replay()
    key = _make_key(_identify(words))
    commands = [command for command in document["commands"] if _make_key(command) == key]
    if not commands:
        kit_recording.report_miss("command", shlex.join(words))
        return 1
    command = kit_recording.take_turn(f"command {key}", commands)
    for file in command["changed"]:
        target = kit_recording.resolve_path(file["path"])
        target.unlink(missing_ok=True)
        place_file(objects.find_object(file["sha256"]), target, 0o755 if file["executable"] else 0)
    output = objects.find_object(command["output"]) if command["output"] else Path(os.devnull)
    with contextlib.suppress(BrokenPipeError), output.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            os.write(1, chunk)
    if words[0] in _SYSTEM:
        print(f"offline-kit: system packages are not restored: {shlex.join(words)}", file=sys.stderr)
    code: int = command["code"]
    return code
