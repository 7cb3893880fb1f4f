"""Commands and tables are called in a message as the person who reads it has to write them."""

from pathlib import Path

import pytest

from offline_kit.cli.console import CommandWording
from tests.support import command_line

AT = "http://127.0.0.1:8642"


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        (CommandWording(), "run 'offline-kit push'", "run 'offline-kit push'"),
        (CommandWording(local=True), "run 'offline-kit push': new", "run 'offline-kit push --to local': new"),
        (CommandWording(local=True), "'offline-kit push --resend'", "'offline-kit push --to local --resend'"),
        (
            CommandWording(local=True, at=AT),
            "'offline-kit verify'",
            f"'offline-kit verify --to local --at {AT}'",
        ),
        (
            CommandWording(local=True, at=r"C:\d"),
            "'offline-kit push'",
            r"'offline-kit push --to local --at C:\d'",
        ),
        (CommandWording(local=True), "'offline-kit push --to kaggle'", "'offline-kit push --to kaggle'"),
        (CommandWording(local=True), "'offline-kit build --on kaggle'", "'offline-kit build --on local'"),
        (CommandWording(local=True), "'offline-kit build'", "'offline-kit build'"),
        (CommandWording(local=True), "'offline-kit pushed'", "'offline-kit pushed'"),
        (
            CommandWording(project="a/b"),
            "run 'offline-kit rehearse': it",
            "run 'offline-kit rehearse a/b': it",
        ),
        (
            CommandWording(project="a b"),
            "'offline-kit build --upgrade'",
            "'offline-kit build --upgrade \"a b\"'",
        ),
        (CommandWording(project="a", local=True), "'offline-kit ship'", "'offline-kit ship --to local a'"),
        (CommandWording(project="a"), "'offline-kit image list'", "'offline-kit image list'"),
        (CommandWording(project="a"), "'offline-kit cache prune'", "'offline-kit cache prune'"),
        (CommandWording(on_top=True), "in [tool.offline-kit.notebook.params]", "in [notebook.params]"),
        (CommandWording(on_top=True), "[[tool.offline-kit.notebook.models]]", "[[notebook.models]]"),
        (CommandWording(on_top=True), "set it in [tool.offline-kit]", "set it in offline-kit.toml"),
        (CommandWording(), "in [tool.offline-kit.notebook]", "in [tool.offline-kit.notebook]"),
    ],
)
def test_a_text_is_worded_for_its_command(words: CommandWording, text: str, said: str) -> None:
    """The target of the command is in each command that has one; tables are called as in the file."""
    assert words(text) == said


def test_data_of_a_script_is_left_alone() -> None:
    """Only what is a sentence of ours is worded: a notebook's text with the same words is data."""
    data = {
        "hint": "'offline-kit push'",
        "text": ["'offline-kit push'"],
        "problems": [{"what": "[tool.offline-kit.x]"}],
    }
    assert CommandWording(local=True, on_top=True).word_value(data) == {
        "hint": "'offline-kit push --to local'",
        "text": ["'offline-kit push'"],
        "problems": [{"what": "[x]"}],
    }


@pytest.mark.parametrize(
    ("name", "before", "table"),
    [
        ("offline-kit.toml", "", "[notebook]"),
        ("offline-kit.toml", "tool.offline-kit.", "[tool.offline-kit.notebook]"),
        ("pyproject.toml", "tool.offline-kit.", "[tool.offline-kit.notebook]"),
    ],
)
def test_an_error_names_the_table_as_it_is_written(
    tmp_path: Path, name: str, before: str, table: str
) -> None:
    """Whoever has an offline-kit.toml looks for [notebook] in it."""
    (tmp_path / name).write_text(f'[{before}notebook]\ntemplte = "plain"\n')
    done = command_line.offline_kit("build", str(tmp_path))
    assert done.returncode == 2
    assert f" {table} unknown key 'templte'" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"), [(("p",), "'offline-kit build p'"), ((".",), "'offline-kit build'"), ((), "'offline-kit build'")]
)  # fmt: skip
def test_the_project_of_a_command_is_in_the_next_one(
    tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    """What `status` and errors say to run is about the project that they are about, wherever one stands."""
    (tmp_path / "p").mkdir()
    for place in (tmp_path, tmp_path / "p"):
        (place / "offline-kit.toml").write_text('dataset = "kit"\n')
    for command, code in (("status", 0), ("notebook", 1)):
        done = command_line.offline_kit(command, *given, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert f"make one with {said}" in (done.stderr if code else done.stdout)
