"""How text fits a terminal, and when it is colored."""

import os
import pty
import re
import struct
import sys
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from offline_kit.cli.console import Console
from offline_kit.cli.screen import find_breaks, find_indent, fit_columns
from tests.support.command_line import offline_kit

ANSI = re.compile(r"\x1b\[[0-9;]*m")
WORDS = st.lists(st.text("abc/-_.=…語", min_size=1, max_size=40), min_size=1, max_size=12)
ROW = (
    "segmentation-models-pytorch",
    "0.9.5",
    "234.2 kB",
    "-r requirements.txt, timm",
    "the image lacks it, and all that it needs",
)
PLAN = (
    "checkpoints",
    "somebody/pathology-checkpoints",
    "version",
    "3",
    "1.2 GB",
    "2 files changed",
)


def wrap(line: str, width: int, indent: int, *, fold: bool) -> list[str]:
    breaks = [*find_breaks(line, width, indent, fold=fold)]
    ends = [0, *(offset for offset, _ in breaks), len(line)]
    indents = [0, *(margin for _, margin in breaks)]
    return [
        " " * margin + line[start:end].rstrip(" ")
        for margin, start, end in zip(indents, ends[:-1], ends[1:], strict=True)
    ]


@given(WORDS, st.integers(20, 60), st.integers(0, 10), st.booleans())
def test_lines_fit_and_lose_nothing(words: list[str], width: int, indent: int, fold: bool) -> None:
    """Every line fits, apart from a word that is wider than the screen and stays whole; nothing is lost."""
    lines = wrap(" ".join(words), width, indent, fold=fold)
    assert "".join(lines).replace(" ", "") == "".join(words)
    wide = [line for line in lines if cell_len(line) > width]
    assert all(not fold and line.strip() in words for line in wide)
    whole = [word for word in words if not fold or cell_len(word) <= width - indent]
    assert all(any(word in line for line in lines) for word in whole)


def test_a_long_path_is_broken_behind_a_slash_if_that_is_enough() -> None:
    """A folded word is broken where a person would break it."""
    path = "/kaggle/input/plant-pathology-2021-fgvc8/sample_submission.csv"
    lines = wrap(path, 45, 0, fold=True)
    assert len(lines) == 2
    assert all(line.endswith("/") for line in lines[:-1])


@pytest.mark.parametrize("line", ["a kit of 12.5 MB", "it took (0.7 s)", "asked by -r requirements.in"])
@pytest.mark.parametrize("fold", [True, False])
def test_a_number_stays_with_its_unit(line: str, fold: bool) -> None:
    """Neither a size nor a duration is broken, nor an option and its value."""
    pair = " ".join(line.split()[-2:])
    assert all(pair in wrap(line, width, 0, fold=fold) for width in range(len(pair), len(line)))


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("K101  ok    uv       0.13", 21),
        ("plain words", 2),
        ("    details", 4),
        ("  name  value", 8),
        ("  -code", 3),
    ],
)
def test_further_lines_begin_below_the_last_column(line: str, column: int) -> None:
    """An aligned line goes on in its last column, another one below its text."""
    assert find_indent(line, 80) == column


@pytest.mark.parametrize("room", [40, 55, 69, 89, 200])
@pytest.mark.parametrize("row", [ROW, PLAN])
def test_columns_fit_the_room(row: tuple[str, ...], room: int) -> None:
    """However narrow, all columns are there, and with enough room each is as wide as its text."""
    widths = fit_columns([row], room)
    assert sum(widths) <= room
    assert min(widths) >= 1
    assert room < 200 or widths == [len(cell) for cell in row]


@pytest.mark.parametrize(("row", "columns"), [(ROW, "80"), (ROW, "100"), (PLAN, "80"), (PLAN[:2], "60")])
def test_no_name_of_a_table_is_broken_on_a_usual_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, row: tuple[str, ...], columns: str
) -> None:
    """Every word is whole, and no line is wider."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    Console().show_table("A title", ["a"] * len(row), [row])
    shown = ANSI.sub("", capsys.readouterr().err)
    assert max(map(len, shown.splitlines())) <= int(columns)
    assert all(word in shown for cell in row for word in cell.split())


SAMPLE = {
    "pyproject.toml": '[tool.offline-kit]\ndataset = "plant-pathology-kit"\nmodules = ["own.py"]\n'
    'checkpoints = ["models/tf_efficientnetv2_m_fold*_epoch12_validation.pth"]\n',
    "own.py": "",
    "inference.ipynb": '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code", "id": "a", '
    '"metadata": {}, "execution_count": null, "outputs": [], "source": "!pip install -q timm==1.0.12 '
    'albumentations segmentation-models-pytorch einops"}]}',
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in SAMPLE.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize(
    "command",
    [
        "doctor --ignore K1",
        "status",
        "adopt inference.ipynb --dry-run",
        "image list",
        "init --dry-run --force",
        "build --dry-run",
        "image show kaggle-2026-10-cpu torch",
        "build --no-such-option",
    ],
)
def test_no_command_prints_a_line_wider_than_the_terminal(command: str, columns: int, project: Path) -> None:
    """Wrapped lines lose nothing of what a log has, and NO_COLOR means no escape sequence at all."""
    env = {**os.environ, "COLUMNS": str(columns)}
    env.pop("FORCE_COLOR", None)
    log = offline_kit(*command.split(), cwd=project, env=env)
    screen = offline_kit(
        *command.split(),
        cwd=project,
        env={**env, "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm-256color"},
    )
    for logged, shown in ((log.stdout, screen.stdout), (log.stderr, screen.stderr)):
        assert "\x1b" not in shown
        wide = [line for line in shown.splitlines() if len(line) > columns]
        assert all(len(line.split()) == 1 for line in wide)  # a path that is wider than the terminal
        if "───" not in shown:
            assert shown.split() == logged.split()


@pytest.mark.parametrize(
    ("env", "colored"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_a_pipe_is_colored_only_if_forced(env: dict[str, str], colored: bool, project: Path) -> None:
    """States and diffs are colored on both streams or on none, and their words are the same."""
    usual = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    env = usual | {"TERM": "xterm-256color"} | env
    checks = offline_kit("doctor", "--ignore", "K1", cwd=project, env=env)
    diff = offline_kit("adopt", "inference.ipynb", "--dry-run", cwd=project, env=env)
    wrong = offline_kit("status", "nowhere", cwd=project, env=env)
    assert {"\x1b" in text for text in (checks.stdout, diff.stdout, wrong.stderr)} == {colored}
    assert re.search(r"^K204  FAIL", ANSI.sub("", checks.stdout), re.MULTILINE)
    assert re.search(r"^\+timm==1.0.12$", ANSI.sub("", diff.stdout), re.MULTILINE)


def test_a_real_terminal_is_wrapped_and_colored(tmp_path: Path) -> None:
    """The width is that of the terminal, without COLUMNS."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            os.environ.pop(name, None)
        os.environ["TERM"] = "xterm-256color"
        # The width is set before the program starts.
        ioctl(0, TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        os.execv(sys.executable, [sys.executable, "-m", "offline_kit", "status", "no-such-folder"])
    output = b""
    try:
        while part := os.read(terminal, 1024):
            output += part
    except OSError:  # Linux: the other end was closed
        pass
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    shown = output.decode()
    assert os.waitstatus_to_exitcode(status) == 2
    assert "\x1b[1;31merror[project-not-found]:" in shown
    assert max(len(line) for line in ANSI.sub("", shown).splitlines()) <= 40
