"""Failures of a rendered notebook reach the command as data."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from offline_kit.notebook import runtime
from offline_kit.notebook.runtime.kit_runtime import FAILURE_KEY, HINTS, KitError, find_failure

RUNTIME = sorted(Path(next(iter(runtime.__path__))).glob("kit_*.py"))


def test_a_failure_that_ends_a_cell_is_printed_as_data_before_its_traceback() -> None:
    """IPython runs the hook, on Kaggle as here; the traceback still says it to a person."""
    code = (
        "from offline_kit.notebook.runtime.kit_runtime import KitError\n"
        "raise KitError('2 files are damaged', ['a.whl: é', 'b\\nc'], code='kit-damaged', hint='push it')"
    )
    argv = [sys.executable, "-m", "IPython", "--colors=NoColor", "-c", code]
    output = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    failure = find_failure(output)
    assert failure is not None
    assert (failure.code, failure.what) == ("kit-damaged", "2 files are damaged")
    assert (failure.details, failure.hint) == (("a.whl: é", "b\nc"), "push it")
    shown = output.partition("Traceback")[2]
    assert "KitError: 2 files are damaged\n  - a.whl: é\n" in shown
    assert "hint: push it" in shown


@pytest.mark.parametrize(
    "output",
    [
        "",
        "KitError: what\n  - detail\nhint: remedy",
        f'{{"{FAILURE_KEY}": }}',
        f'{{"{FAILURE_KEY}": {{"code": "a"}}}}',
        f'{{"{FAILURE_KEY}": []}}',
        f'{{"{FAILURE_KEY}": {{"code": "a", "what": "b", "hint": "c", "details": 3}}}}',
    ],
)
def test_nothing_is_parsed_out_of_prose(output: str) -> None:
    """A notebook may print anything; only a whole line of our JSON counts."""
    assert find_failure(output) is None


def test_the_last_failure_counts() -> None:
    """What a caught error printed earlier is not what ended the notebook."""
    first = KitError("one", hint="h", code="first").to_json()
    last = KitError("two", hint="h", code="last").to_json()
    failure = find_failure(f"text\n{first}\nmore\n{last}\nTraceback ...")
    assert failure is not None
    assert failure.code == "last"


def test_every_error_of_the_runtime_has_a_code_and_a_hint() -> None:
    """Codes are stable names in kebab-case; the hint stands in the table, or beside the error that words its own."""
    codes: set[str] = set()
    for path in RUNTIME:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "KitError":
                words = {word.arg: word.value for word in node.keywords}
                code = words["code"]
                if isinstance(code, ast.Constant):
                    codes.add(str(code.value))
                    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", str(code.value))
                    assert "hint" in words or code.value in HINTS, f"{path.name}:{node.lineno}"
    assert set(HINTS) <= codes
