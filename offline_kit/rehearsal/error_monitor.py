"""List the errors that a notebook's own code swallows; IPython runs this file as the kernel starts.

A rehearsal copies it into the profile of its kernel. It needs Python 3.12, and only the standard library:
https://docs.python.org/3/library/sys.monitoring.html
"""

import ast
import contextlib
import functools
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


def watch_errors(path: Path, own_paths: Sequence[str]) -> None:
    """Write a line of JSON to `path` for each error that code swallows whose file name has one of `own_paths` in it."""
    remaining = iter(range(_MAX_RECORDS))

    def watch(code: CodeType, offset: int, error: BaseException) -> None:
        if any(own_path in code.co_filename for own_path in own_paths):
            with contextlib.suppress(Exception):  # what fails here would fail in the notebook's code
                if (facts := describe_swallowed(code, offset, error)) and next(remaining, None) is not None:
                    with path.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(facts) + "\n")

    monitoring: Any = vars(sys)["monitoring"]
    monitoring.use_tool_id(_TOOL, "offline-kit")
    monitoring.register_callback(_TOOL, monitoring.events.EXCEPTION_HANDLED, watch)
    monitoring.set_events(_TOOL, monitoring.events.EXCEPTION_HANDLED)


def describe_swallowed(code: CodeType, offset: int, error: BaseException) -> dict[str, str]:
    """Return file, line and error if the clause that handles it takes errors of all kinds, and raises none; else {}."""
    name = code.co_filename
    line = next((line for _, end, line in code.co_lines() if line and end > offset), 0)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for handler in read_handlers(name).get(line, ()):
        types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        names = {ast.unparse(node).rpartition(".")[2] if node else "BaseException" for node in types}
        if not names & kinds:
            continue
        if not names & _ALL_KINDS or any(isinstance(node, ast.Raise) for node in ast.walk(handler)):
            return {}
        trace = error.__traceback__
        while trace:
            line = trace.tb_lineno if trace.tb_frame.f_code is code else line
            trace = trace.tb_next
        return {
            "file": "" if "ipykernel_" in name else Path(name).name,
            "source": linecache.getline(name, line).strip(),
            "error": f"{type(error).__name__}: {error}".splitlines()[0][:200],
        }
    return {}


@functools.cache
def read_handlers(filename: str) -> dict[int, list[ast.ExceptHandler]]:
    """Return the handlers of each `try` of a file by the line at which the first one begins."""
    tree = ast.parse("".join(linecache.getlines(filename)))
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Try) and node.handlers]
    return {node.handlers[0].lineno: node.handlers for node in statements}


if __name__ == "__main__" and sys.version_info >= (3, 12):
    watch_errors(Path(os.environ["IPYTHONDIR"], "swallowed.jsonl"), globals()["OWN_PATHS"])
