"""The README cannot lie: its help, its configuration tables and its two commands are compared with the code."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from offline_kit import config
from offline_kit.errors import Exit

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def plain(text: str) -> str:
    """Return a shell text as one line, its continuations joined."""
    return " ".join(text.replace("\\\n", " ").split())


def test_the_help_is_the_commands_own() -> None:
    """The README shows what `offline-kit --help` prints."""
    env = {**os.environ, "COLUMNS": "80"}
    words = [sys.executable, "-m", "offline_kit", "--help"]
    printed = subprocess.run(words, capture_output=True, text=True, check=True, env=env).stdout
    shown = README.split("<!-- help -->\n```text\n")[1].split("```")[0]
    assert shown.strip() == printed.strip()
    assert "..." not in printed.partition("Commands:")[2], "what a command does is told to its end"


@pytest.mark.parametrize("number", [0, 1])
def test_ci_runs_the_commands_of_the_first_screen(number: int) -> None:
    """The two commands on the README's first screen are, word for word, what .ci/run calls."""
    command = plain(blocks("sh")[number])
    assert command in plain((ROOT / ".ci" / "run").read_text())
    assert README[: README.index(blocks("sh")[number])].count("\n") < 30


def documented(table: str) -> set[str]:
    """Return the keys in the first column of one of the configuration tables."""
    rows = README.split(f"| `[{table}]` |")[1].split("\n\n")[0].splitlines()[2:]
    return {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_every_key_is_documented() -> None:
    """The configuration tables hold all keys, and no others."""
    assert documented("tool.offline-kit") == set(config.KEYS) - {"notebook"}
    assert documented("tool.offline-kit.notebook") == set(config.NOTEBOOK_KEYS)


def test_every_exit_code_is_documented() -> None:
    """The table of exit codes holds all of them."""
    codes = re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)
    assert [int(code) for code in codes] == sorted(Exit)


@pytest.mark.parametrize("number", [0, 1])
def test_the_example_configurations_are_valid(tmp_path: Path, number: int) -> None:
    """What the README tells to put into pyproject.toml is accepted as it stands."""
    example = blocks("toml")[number]
    assert tomllib.loads(example)
    (tmp_path / "pyproject.toml").write_text(example)
    for name in ("requirements.in", "train.py"):
        (tmp_path / name).touch()
    (tmp_path / "input").mkdir()
    loaded = config.load(tmp_path, {})
    assert (loaded.notebook.model, loaded.notebook.ensemble) in (("plants.model:LitPlants", ""), ("", "rank"))


def test_options_in_the_examples_exist() -> None:
    """No example uses an option that `rehearse` does not know."""
    words = [sys.executable, "-m", "offline_kit", "rehearse", "--help"]
    known = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    for example in blocks("sh"):
        if "offline-kit rehearse" in example:
            asked = example.split("offline-kit rehearse")[1].split("&&")[0]
            for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", asked):
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", known), option


def test_links_lead_somewhere() -> None:
    """Every relative link of the README, CONTRIBUTING and the changelog names a file of the repository."""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{name}: {target}"
