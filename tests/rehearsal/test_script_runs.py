"""How the run of a script ended, read from what Python itself writes."""

import subprocess
import sys
from pathlib import Path

import pytest

from offline_kit.rehearsal import script_runs
from offline_kit.rehearsal.script_runs import ScriptFailure

NESTED = """import json

def read(text):
    return json.loads(text)

read("{")
"""


def log_of(folder: Path, script: str) -> str:
    """Run a script that fails under Kaggle's name, and return its log."""
    path = folder / script_runs.SCRIPT.removeprefix("/")
    path.parent.mkdir(parents=True)
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, "-u", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode
    return done.stdout


def fail(folder: Path, script: str) -> ScriptFailure | None:
    """Run a script, and read its log."""
    return script_runs.find_script_failure(log_of(folder, script))


@pytest.mark.parametrize(
    ("script", "line", "message"),
    [
        (NESTED, 4, "json.decoder.JSONDecodeError: Expecting property name"),
        ("x = 1\n!pip install ttach\n", 2, "SyntaxError: invalid syntax"),
        ("\nraise ValueError('two\\nlines')\n", 2, "ValueError: two\nlines"),
        (
            "print('50%|###', end='')\nassert False\n",
            2,
            "AssertionError",
        ),  # a progress bar, and no end of its line
        ("import logging\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    logging.exception('caught')\n{}[1]\n", 6, "KeyError: 1"),
        (
            "import threading\nthread = threading.Thread(target=lambda: 1 / 0)\nthread.start(), thread.join()\n{}[1]\n",
            4,
            "KeyError: 1",
        ),
        ("class Late:\n    def __del__(self):\n        1 / 0\nlate = Late()\n{}[1]\n", 5, "KeyError: 1"),
    ],
)  # fmt: skip
def test_the_error_that_ended_it_is_found(tmp_path: Path, script: str, line: int, message: str) -> None:
    """The innermost line of the script, and the error with all lines of its message; other tracebacks do not count."""
    failure = fail(tmp_path, script)
    assert failure
    assert (failure.line, failure.message[: len(message)]) == (line, message)
    assert failure.error[-1]


def test_causes_follow_the_error(tmp_path: Path) -> None:
    """A chain of errors is kept whole, the last one first in the message."""
    script = "try:\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n        raise OSError('b') from e\nexcept OSError:\n    raise KeyError('c')\n"
    failure = fail(tmp_path, script)
    assert failure
    assert failure.message.splitlines() == [
        "KeyError: 'c'",
        "OSError: b",
        "ZeroDivisionError: division by zero",
    ]
    assert (failure.line, failure.error[-1]) == (7, "KeyError: 'c'")
    assert sum(line.startswith("Traceback") for line in failure.error) == 3


def test_what_was_printed_before_the_error_is_apart(tmp_path: Path) -> None:
    """A traceback of a process that the script started is not its own."""
    script = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', '1 / 0'])\n{}[1]\n"
    log = log_of(tmp_path, script)
    failure = script_runs.find_script_failure(log)
    assert failure
    assert log[: failure.start].rstrip().endswith("ZeroDivisionError: division by zero")
    assert (failure.line, failure.message) == (3, "KeyError: 1")


def test_an_exit_is_no_error(tmp_path: Path) -> None:
    """`sys.exit` with words leaves no traceback."""
    assert fail(tmp_path, "import sys\nsys.exit('no model')\n") is None
