"""Find errors that a notebook swallowed: with `except Exception: pass` it looks well, and predicts placeholders."""

import json
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from offline_kit.core import files

_MAX_LINES = 5
_RECORD = "ipython/swallowed.jsonl"
# IPython runs startup files with the notebook's variables; the monitor has its own, so that no import of its helps a cell.
_START = """exec(
    open(__import__("os").environ["IPYTHONDIR"] + "/error_monitor.py").read(),
    {{"__name__": "__main__", "OWN_PATHS": {own_paths}}},
)
"""
# Cells have names of ipykernel's; the project's modules lie in the kit, its packages are installed.
_OWN_PATHS = ("ipykernel_", "/offline-kit/kit/code/")


def install_monitor(out: Path, own_packages: Collection[str] = ()) -> None:
    """Let the kernel whose IPYTHONDIR is in `out` list the errors that cells and the project's code swallow.

    `own_packages` are the import names of the project's packages.
    """
    startup = files.make_folder(out / "ipython" / "profile_default" / "startup")
    installed = [f"/offline-kit/site/{name}{end}" for name in sorted(own_packages) for end in ("/", ".py")]
    (startup / "00-offline-kit.py").write_text(_START.format(own_paths=[*_OWN_PATHS, *installed]))
    shutil.copyfile(Path(__file__).with_name("error_monitor.py"), out / "ipython" / "error_monitor.py")


def list_swallowed_errors(out: Path, cells: Mapping[str, str]) -> list[str]:
    """Return a line for each error that was swallowed, most frequent first; `cells` are sources by label."""
    record = out / _RECORD
    lines = record.read_text(encoding="utf-8", errors="replace").splitlines() if record.is_file() else []
    counts = Counter(lines)
    described = [_describe_error(line, count, cells) for line, count in counts.most_common(_MAX_LINES)]
    omitted = len(counts) - _MAX_LINES
    return [*described, *([f"{omitted} more"] if omitted > 0 else [])]


def _describe_error(line: str, count: int, cells: Mapping[str, str]) -> str:
    try:
        file, source, error = (str(json.loads(line)[key]) for key in ("file", "source", "error"))
    except (ValueError, KeyError, TypeError):
        return line[:200]  # the run could write anything to this file
    labels = (label for label, text in cells.items() if source in text)
    position = f"'{file}'" if file else next(labels, "a cell")
    return f"{position}, `{source}`: {error}{f' ({count} times)' if count > 1 else ''}"
