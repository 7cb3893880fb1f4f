"""The number of rows of the hidden test set, which is asked once."""

from pathlib import Path

import pytest

from offline_kit.core.report import Reporter
from offline_kit.project.config import load_config
from offline_kit.workflow.pipeline import ask_hidden_rows
from tests.support.shipping import make_project, yard

CONFIG = """# ours
name = "x" # kept
[tool.offline-kit]  # the kit
hidden = "auto"
dataset  =  'some-kit'
"""


class Person(Reporter):
    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def can_ask(self) -> bool:
        return True

    def ask(self, question: str) -> str:
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("answers", "rows", "line"),
    [
        (["12,000"], 12_000, "hidden_rows = 12000  # rows of the hidden test set\n"),
        (["many", "30"], 30, "hidden_rows = 30  # rows of the hidden test set\n"),
        ([""], 0, "hidden_rows = 0  # rows of the hidden test set; 0: unknown\n"),
    ],
)
def test_the_answer_is_kept_in_the_configuration(
    tmp_path: Path, answers: list[str], rows: int, line: str
) -> None:
    """As a line of its table, whose other lines stay as they are; then nobody is asked again."""
    file = tmp_path / "pyproject.toml"
    file.write_text(CONFIG)
    asked = ask_hidden_rows(load_config(tmp_path, {}), Person(*answers))
    assert asked.hidden_rows == rows
    assert file.read_text() == CONFIG + line
    again = load_config(tmp_path, {})
    assert ask_hidden_rows(again, Person()) == again
    assert again.hidden_rows == rows


def test_nobody_is_asked_without_a_hidden_run(tmp_path: Path) -> None:
    """Nor if there is nobody to ask."""
    config = load_config(tmp_path, {"hidden": "none"})
    assert ask_hidden_rows(config, Person()) == config
    config = load_config(tmp_path, {"hidden": "auto"})
    assert ask_hidden_rows(config) == config
    assert [*tmp_path.iterdir()] == []


def test_a_configuration_that_cannot_be_written_stays(tmp_path: Path) -> None:
    """The answer counts for this run."""
    (tmp_path / "pyproject.toml").write_text("tool = { x = 1 }\n")
    config = load_config(tmp_path, {"hidden": "auto"})
    assert ask_hidden_rows(config, Person("7")).hidden_rows == 7
    assert (tmp_path / "pyproject.toml").read_text() == "tool = { x = 1 }\n"


def test_a_rehearsal_asks_on_a_terminal_alone(tmp_path: Path) -> None:
    """Before it does anything else; not with --yes."""
    with yard(tmp_path, make_project(tmp_path / "made" / "project")) as here:
        config, words = here.project / "offline-kit.toml", ("--no-build", "--hidden", "auto")
        code, _ = here.run_on_terminal({}, "rehearse", *words, "--yes")
        assert (code, "hidden_rows" in config.read_text()) == (1, False)
        code, shown = here.run_on_terminal({"Enter: unknown": "900"}, "rehearse", *words)
        assert code == 1, shown
        assert load_config(here.project, {}).hidden_rows == 900
