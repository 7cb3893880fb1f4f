"""List the errors that a notebook's own code swallows; IPython runs this file as the kernel starts.

A rehearsal copies it into the profile of its kernel. It needs Python 3.12, and only the standard library:
https://docs.python.org/3/library/sys.monitoring.html
"""

import ast
import contextlib
import json
import linecache
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType
from typing import Any

_TOOL = 4  # a number that debuggers, coverage and profilers leave free
_MAX_RECORDS = 1000
_ALL_KINDS = {"Exception", "BaseException"}


class ErrorMonitor:
    """Writes a line of JSON to `path` for each error that code swallowed whose file name has one of `own_paths` in it."""

    def __init__(self, path: Path, own_paths: Sequence[str]) -> None:
        self._path, self._own_paths = path, own_paths
        self._written = 0
        self._handlers: dict[tuple[str, int], list[ast.ExceptHandler]] = {}

    def start(self) -> None:
        """Watch all errors that are handled in this process from now on."""
        monitoring: Any = vars(sys)["monitoring"]
        monitoring.use_tool_id(_TOOL, "offline-kit")
        monitoring.register_callback(_TOOL, monitoring.events.EXCEPTION_HANDLED, self._watch_error)
        monitoring.set_events(_TOOL, monitoring.events.EXCEPTION_HANDLED)

    def _watch_error(self, code: CodeType, offset: int, error: BaseException) -> None:
        is_own = any(path in code.co_filename for path in self._own_paths)
        if is_own and self._written < _MAX_RECORDS:
            with contextlib.suppress(Exception):  # what fails here would fail in the notebook's code
                self._record_error(code, offset, error)

    def _record_error(self, code: CodeType, offset: int, error: BaseException) -> None:
        line = next((line for _, end, line in code.co_lines() if line and end > offset), 0)
        if not is_swallowed(error, self._find_handlers(code.co_filename, line)):
            return
        trace = error.__traceback__
        while trace:
            line = trace.tb_lineno if trace.tb_frame.f_code is code else line
            trace = trace.tb_next
        name = code.co_filename
        facts = {
            "file": "" if "ipykernel_" in name else Path(name).name,
            "source": linecache.getline(name, line).strip(),
            "error": f"{type(error).__name__}: {error}".splitlines()[0][:200],
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(facts) + "\n")
        self._written += 1

    def _find_handlers(self, filename: str, line: int) -> list[ast.ExceptHandler]:
        """Return the handlers of the `try` whose first one begins at a line; [] for a `with` and a `finally`."""
        if (filename, line) not in self._handlers:
            tree = ast.parse("".join(linecache.getlines(filename)))
            statements = [node for node in ast.walk(tree) if isinstance(node, ast.Try) and node.handlers]
            self._handlers |= {(filename, node.handlers[0].lineno): node.handlers for node in statements}
        return self._handlers.setdefault((filename, line), [])


def is_swallowed(error: BaseException, handlers: list[ast.ExceptHandler]) -> bool:
    """Return whether the clause that handles the error takes errors of all kinds, and raises none."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for handler in handlers:
        types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        names = {ast.unparse(node).rpartition(".")[2] if node else "BaseException" for node in types}
        if names & kinds:
            raises = any(isinstance(node, ast.Raise) for node in ast.walk(handler))
            return bool(names & _ALL_KINDS) and not raises
    return False


if __name__ == "__main__" and sys.version_info >= (3, 12):
    ErrorMonitor(Path(os.environ["IPYTHONDIR"], "swallowed.jsonl"), globals()["OWN_PATHS"]).start()
