"""Watch a Python process of a script from within: what it opens and imports; with the standard library alone.

This file and the notebook's runtime are copied beside each other, as `offline_kit_runtime`, and run in the user's Python.
"""

import atexit
import importlib.metadata
import sys
from contextlib import suppress
from pathlib import Path


def watch_process() -> None:
    """Log what this process opens from now on, and what it has imported when it ends."""
    from offline_kit_runtime.kit_hooking import start_audit  # type: ignore[import-not-found]

    start_audit()
    # What .pth files import at the start, such as setuptools', is not the script's.
    atexit.register(_log_modules, frozenset(sys.modules))


def _log_modules(at_start: frozenset[str]) -> None:
    from offline_kit_runtime.kit_recording import log_event, name_path  # type: ignore[import-not-found]

    files = {
        name: str(Path(file).absolute())
        for name, module in list(sys.modules.items())
        if name not in at_start and (file := getattr(module, "__file__", None))
    }
    tops = {name.partition(".")[0] for name in files} - sys.stdlib_module_names
    # It reads the metadata of the whole environment: not in a process that imports the standard library alone.
    owners = importlib.metadata.packages_distributions() if tops else {}
    loaded, imports = set(files.values()), dict[str, list[str]]()
    for top in sorted(tops):
        candidates = set(owners.get(top, ()))
        if len(candidates) > 1:  # a namespace package, such as google: who owns the loaded files?
            candidates = {
                name
                for name in candidates
                if any(str(file.locate()) in loaded for file in importlib.metadata.files(name) or ())
            }
        for name in candidates:
            imports.setdefault(name, []).append(top)
    distributions = []
    for name, own_tops in imports.items():
        distribution = importlib.metadata.distribution(name)
        # https://packaging.python.org/en/latest/specifications/direct-url/
        origin = distribution.read_text("direct_url.json")
        facts = {"name": name, "version": distribution.version, "requires": distribution.requires or []}
        distributions.append({**facts, "imports": own_tops, "origin": origin or ""})
    named = {name: name_path(file) for name, file in files.items()}
    own_files = {name: path for name, path in named.items() if path.startswith("{working}")}
    with suppress(OSError):  # a worker that outlived the script, whose run is over
        log_event("modules", files=own_files, distributions=distributions)
