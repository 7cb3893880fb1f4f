"""Stand-ins, first on PATH, for commands that download: they run the real one and record it, or replay what it did."""

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .kit_recording import (
    RECORDER,
    REPLAY,
    ObjectWriter,
    add_object,
    count_turn,
    hide_secrets,
    log_event,
    name_path,
    open_replay,
    redact,
    report_miss,
    resolve_path,
    root_folders,
)
from .kit_sources import place_file

_SYSTEM = ("apt-get", "apt", "conda", "mamba")
COMMANDS = ("wget", "curl", "aria2c", "gdown", "hf", "huggingface-cli", "kaggle", *_SYSTEM)
_CONDA_CHANGES = {"install", "create", "update", "upgrade", "remove", "uninstall", "env"}
_LOCAL_URL = re.compile(r"(?:\w+://)?(?:localhost|127\.[\d.]+|\[::1\]|0\.0\.0\.0)(?::\d+)?(?:[/?].*)?")


def write_stand_ins(hooks: Path) -> None:
    """Write a program for every command; Python's own variables and start-up files do not reach it."""
    (hooks / "bin").mkdir(exist_ok=True)
    for name in COMMANDS:
        code = f"import sys; sys.path.insert(0, {str(hooks)!r}); from offline_kit_runtime import kit_commands as commands"
        words = shlex.join([sys.executable, "-IS", "-c", f"{code}; commands.run_command(sys.argv[1:])", name])
        path = hooks / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        path.chmod(0o755)


def run_command(words: list[str]) -> None:
    """Run, record or replay a command, and exit with its code."""
    own = Path(__file__).parents[1] / "bin"
    path = os.pathsep.join(entry for entry in os.get_exec_path() if entry != str(own))
    program = shutil.which(words[0], path=path)
    is_left_alone = any(map(_LOCAL_URL.fullmatch, words[1:])) or (
        # `conda run` and `conda list` are no downloads.
        words[0] in ("conda", "mamba") and not _CONDA_CHANGES & set(words)
    )
    if REPLAY in os.environ and not is_left_alone:
        sys.exit(_replay_command(words))
    if not program:
        print(f"{words[0]}: command not found", file=sys.stderr)
        sys.exit(127)
    if RECORDER not in os.environ or is_left_alone:
        os.execv(program, words)  # noqa: S606 - the user's command, as it is
    sys.exit(_record_command(program, words, path))


def _record_command(program: str, words: list[str], path: str) -> int:
    # What it starts itself belongs to it.
    environ = {**os.environ, "PATH": path}
    recorder = Path(environ.pop(RECORDER))
    with (recorder / "commands.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # `wget a & wget b`: each file belongs to one of them
        before = _list_files()
        output = ObjectWriter()
        with subprocess.Popen(words, executable=program, env=environ, stdout=subprocess.PIPE) as process:
            # `x = !curl URL` is a terminal, too: IPython reads commands through one.
            while chunk := os.read(process.stdout.fileno(), 1 << 16):  # type: ignore[union-attr]
                output.write(chunk)
                with contextlib.suppress(BrokenPipeError):  # `| head`
                    os.write(1, chunk)
        changed = []
        for changed_path in sorted(
            path for path, state in _list_files().items() if before.get(path) != state
        ):
            with contextlib.suppress(OSError):  # another process has deleted it
                digest, size = add_object(Path(changed_path))
                mode = {"executable": os.access(changed_path, os.X_OK)}
                changed.append({"path": name_path(changed_path), "sha256": digest, "size": size, **mode})
    if output.size < 1 << 20:
        output.rewrite(hide_secrets(output.read().decode("latin-1")).encode("latin-1"))
    digest = output.close()[0]
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    log_event("command", **_identify(words), code=code, output=digest, changed=changed)
    return code


def _identify(words: list[str]) -> dict[str, Any]:
    return {"words": [redact(word) for word in words], "folder": name_path(Path.cwd())}


def _list_files() -> dict[str, tuple[int, int]]:
    """Return size and time of the files that a command may have written for the notebook."""
    roots = root_folders()
    home, scratch = roots["home"], roots.pop("scratch")
    files: dict[str, tuple[int, int]] = {}
    walked: set[str] = {str(scratch)}
    for root in {*roots.values(), Path.cwd()} - {roots["input"], Path("/")}:
        for folder, folders, names in os.walk(root):
            hidden = "." if folder == str(home) else "\0"  # caches, and files with passwords
            if (
                folder in walked
                or folder.endswith(("site-packages", "dist-packages"))
                or "conda-meta" in folders
            ):
                folders.clear()
                continue
            walked.add(folder)
            folders[:] = [name for name in folders if not name.startswith(hidden)]
            for path in (os.path.join(folder, name) for name in names if not name.startswith(hidden)):  # noqa: PTH118
                with contextlib.suppress(OSError):
                    status = os.stat(path)  # noqa: PTH116 - of very many files
                    files[path] = (status.st_size, status.st_mtime_ns)
    return files


def _replay_command(words: list[str]) -> int:
    document, objects = open_replay()
    identity = _without_secrets(_identify(words))
    commands = [command for command in document["commands"] if _without_secrets(command) == identity]
    if not commands:
        report_miss("command", shlex.join(words))
        return 1
    command = commands[min(count_turn(f"command {identity}"), len(commands) - 1)]
    for file in command["changed"]:
        target = resolve_path(file["path"])
        target.unlink(missing_ok=True)
        place_file(objects.find_object(file["sha256"]), target, 0o755 if file["executable"] else 0)
    if command["output"]:
        with (
            contextlib.suppress(BrokenPipeError),
            objects.find_object(command["output"]).open("rb") as stream,
        ):
            shutil.copyfileobj(stream, sys.stdout.buffer)
            sys.stdout.flush()
    if words[0] in _SYSTEM:
        print(f"offline-kit: system packages are not restored: {shlex.join(words)}", file=sys.stderr)
    code: int = command["code"]
    return code


def _without_secrets(command: Any) -> tuple[str, ...]:
    # A secret is "***" in the recording, and empty in a replay.
    return tuple(word.replace("***", "") for word in (command["folder"], *command["words"]))
