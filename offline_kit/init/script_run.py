"""Watch one run of a script in the user's environment: what it opened, and what it imported."""

import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.core import files, processes, resources
from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kit.layout import RUNTIME_PACKAGE
from offline_kit.notebook.runtime import kit_hooking, kit_recording
from offline_kit.project.package_lists import normalize_name


@dataclass(frozen=True, kw_only=True)
class ImportedDistribution:
    """A distribution of which the script imported modules."""

    name: str  # normalized
    version: str
    requires: Sequence[str]  # as in its metadata
    imports: Sequence[str]  # its top-level names
    origin: str  # content of direct_url.json; empty for one of the index


@dataclass(frozen=True, kw_only=True)
class ScriptRun:
    """What one run of a script used."""

    opened: Sequence[Path]  # absolute; files that it only read, in the order of their first use
    listed: Sequence[Path]  # folders
    modules: Mapping[str, Path]  # those that lie below the project, by dotted name
    distributions: Sequence[ImportedDistribution]  # sorted by name


def watch_script(command: str, project: Path, report: Reporter = SILENT) -> ScriptRun:
    """Run a command in the project's folder, unchanged, and return what its Python processes used.

    Its output goes to stderr. Raises UsageError if there is no such program, and ProjectError if it fails, with its exit
    code, or if no Python process of it could be watched.
    """
    words: list[str] = []
    with suppress(ValueError):  # a quote that is not closed
        words = shlex.split(command, posix=os.name != "nt")
    words = [word.strip('"') for word in words] if os.name == "nt" else words
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise UsageError(
            f"'{command}' names no program that can be run",
            hint='write the command as in a shell: --record "python predict.py"',
            code="command-not-found",
        )
    with tempfile.TemporaryDirectory(prefix="offline-kit-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        runtime = files.make_folder(folder / "hooks" / RUNTIME_PACKAGE)
        for name, content in resources.runtime_files().items():
            # The package's own __init__ imports what the script does not need.
            (runtime / name).write_bytes(b"" if name == "__init__.py" else content)
        shutil.copyfile(Path(__file__).with_name("watched_process.py"), runtime / "watched_process.py")
        kit_hooking.write_sitecustomize(folder / "hooks", "watched_process", "watch_process")
        search_path = [str(folder / "hooks"), *filter(None, [os.environ.get("PYTHONPATH")])]
        changes = {
            "PYTHONPATH": os.pathsep.join(search_path),
            "OFFLINE_KIT_WORKING": str(project.resolve()),
            kit_recording.RECORDER: scratch,
        }
        report.step(f"running '{command}'")
        environment = processes.copy_environment(**changes)
        code = processes.run_in_terminal([program, *words[1:]], cwd=project, env=environment)
        events = kit_recording.read_events(folder)
    if code:
        error = ProjectError(
            f"'{command}' ended with exit code {code}, and nothing was written",
            hint="make it run to its end first, then run the same command again",
            code="recorded-command-failed",
        )
        # As shells have it: a signal n becomes 128 + n.
        error.exit_code = code if code > 0 else 128 - code
        raise error
    return _summarize_events(events, project.resolve(), command)


def _summarize_events(events: Sequence[Mapping[str, Any]], project: Path, command: str) -> ScriptRun:
    ended = [event for event in events if event["event"] == "modules"]
    if not ended:
        raise ProjectError(
            f"'{command}' started no Python process that can be watched",
            hint="start a script with Python 3.10 or newer, without -I, -E and -S, and let it end without os._exit",
            code="script-not-watched",
        )
    opened = [event for event in events if event["event"] == "open"]
    written = {event["path"] for event in opened if event["mode"] == "w"}
    read = dict.fromkeys(event["path"] for event in opened if event["path"] not in written)
    distributions = {
        normalize_name(facts["name"]): ImportedDistribution(**facts | {"name": normalize_name(facts["name"])})
        for event in ended
        for facts in event["distributions"]
    }
    return ScriptRun(
        opened=[_resolve(path, project) for path in read],
        listed=[_resolve(event["path"], project) for event in events if event["event"] == "list"],
        modules={name: _resolve(path, project) for event in ended for name, path in event["files"].items()},
        distributions=[distributions[name] for name in sorted(distributions)],
    )


def _resolve(named: str, project: Path) -> Path:
    """Return the path that the watched process named, in which the project was the working folder."""
    root, _, below = named.partition("/")
    return project / below if root == "{working}" else kit_recording.resolve_path(named)
