"""The table of failures in docs/failures.md says what is true: its codes and its tests exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHOWN = {"before the push", "rehearsal", "hidden run", "cannot be known"}


def read_stories() -> list[list[str]]:
    lines = (ROOT / "docs" / "failures.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in rows if row[0].isdigit()]


def test_every_story_has_its_number_and_its_verdict() -> None:
    """51 stories in order, each with one of four verdicts and how it is shown."""
    stories = read_stories()
    assert [int(row[0]) for row in stories] == [*range(1, 52)]
    assert {row[2] for row in stories} == SHOWN
    assert all(row[1] and row[3] and row[4] for row in stories)


def test_the_codes_of_the_stories_exist() -> None:
    """Every code is explained in docs/errors.md, which is made from the source."""
    codes = {*re.findall(r"(?m)^\| `([a-z-]+)`", (ROOT / "docs" / "errors.md").read_text())}
    named = {code for row in read_stories() for code in re.findall(r"`([a-z]+(?:-[a-z]+)+)`", row[3])}
    assert len(named) > 30
    assert named <= codes


def test_the_tests_of_the_stories_exist() -> None:
    """Every story names one test at least, by file and function."""
    functions: dict[str, set[str]] = {}
    for row in read_stories():
        tests = re.findall(r"`([\w/]+\.py)::(\w+)`", row[4])
        assert tests, row
        for file, function in tests:
            if file not in functions:
                nodes = ast.parse((ROOT / "tests" / file).read_text()).body
                functions[file] = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
            assert function in functions[file], (file, function)
