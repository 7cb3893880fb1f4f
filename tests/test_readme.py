"""README and docs/ cannot lie: generated pages, commands, options, configurations and links are compared with the code."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from offline_kit.cli.main import cli
from offline_kit.project import config

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]}


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in a language, indented ones too."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^ *```", PAGES[page].read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def plain(text: str) -> str:
    """Return a shell text as one line, its continuations joined."""
    return " ".join(text.replace("\\\n", " ").split())


def test_the_generated_pages_are_up_to_date() -> None:
    """docs/configuration.md and docs/commands.md are what the schema and the command line say."""
    words = [sys.executable, str(ROOT / "tools" / "generate_docs.py"), "--check"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_code_of_the_source_is_explained() -> None:
    """docs/errors.md has a cause for each code that the package names; bugs and ^C are exit codes of their own."""
    sources = (path.read_text("utf-8") for path in (ROOT / "offline_kit").rglob("*.py"))
    codes = {code for source in sources for code in re.findall(r'\bcode="([a-z-]+)"', source)}
    rows = dict(re.findall(r"(?m)^\| `([a-z-]+)` \| [\d/]+ \| (.*?) \|", PAGES["docs/errors.md"].read_text()))
    assert codes - {"bug", "interrupted"} - rows.keys() == set()
    assert "..." not in rows.values()


def test_help_tells_what_a_command_does_to_its_end() -> None:
    """No line of `offline-kit --help` is cut."""
    assert "..." not in PAGES["docs/commands.md"].read_text().partition("Commands:")[2].partition("```")[0]


@pytest.mark.parametrize("number", [0, 1])
def test_ci_runs_the_commands_of_the_first_screen(number: int) -> None:
    """The two commands on the README's first screen are, word for word, what .ci/run calls."""
    shown = blocks("README.md", "sh")[number]
    assert plain(shown) in plain((ROOT / ".ci" / "run").read_text())
    assert README[: README.index(shown)].count("\n") < 30


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every offline-kit command line of the documentation, with the page that it is on."""
    for page in PAGES:
        for block in blocks(page, "sh") + blocks(page, "yaml"):
            for line in block.replace("\\\n", " ").splitlines():
                for said in re.findall(r"(?:^|[\s/])offline-kit (?!-)([^&|>#]*)", line):
                    yield page, shlex.split(said)


def test_commands_and_options_of_the_documentation_exist() -> None:
    """Every command line that is shown is understood."""
    checked = 0
    for page, words in commands():
        command: click.Command = cli
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        unknown = [word for word in words if re.match(r"--?[a-z]", word) and word not in known]
        assert not unknown, f"{page}: {command.name} {unknown}"
        checked += 1
    assert checked > 20


def configurations() -> list[tuple[str, str]]:
    """Return every configuration of the documentation that stands for itself."""
    return [
        (page, text)
        for page in PAGES
        for text in blocks(page, "toml")
        if "competition =" in text or "[tool.offline-kit]" in text
    ]


@pytest.mark.parametrize(("page", "text"), configurations())
def test_the_example_configurations_are_valid(tmp_path: Path, page: str, text: str) -> None:
    """What the documentation tells to write is accepted as it stands."""
    inside = "[tool.offline-kit]" in text
    (tmp_path / ("pyproject.toml" if inside else "offline-kit.toml")).write_text(text)
    for name in ("requirements.in", "train.py"):
        (tmp_path / name).touch()
    (tmp_path / "input").mkdir()
    loaded = config.load_config(tmp_path, {})
    assert loaded.checkpoints


@pytest.mark.parametrize("page", PAGES)
def test_examples_in_data_formats_parse(page: str) -> None:
    """TOML and JSON of the documentation are well formed."""
    for text in blocks(page, "toml"):
        tomllib.loads(text)
    for text in blocks(page, "json"):
        json.loads(text)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link names a file of the repository; `mkdocs build --strict` sees to those within docs/."""
    for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_what_is_read_first_is_short() -> None:
    """README and CONTRIBUTING are read on one sitting."""
    assert README.count("\n") <= 150
    assert (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").count("\n") <= 60


def test_the_tests_of_other_systems_exist() -> None:
    """The files that ci.yml runs on macOS and Windows are there."""
    named = re.findall(r"tests/[\w/]+\.py", (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/extending.md"])
def test_modules_and_files_of_the_documentation_exist(page: str) -> None:
    """What the pages for developers name by its module or path is there."""
    text = (ROOT / page).read_text(encoding="utf-8")
    rooms = "|".join(folder.name for folder in (ROOT / "offline_kit").iterdir() if folder.is_dir())
    modules = re.findall(rf"`((?:{rooms})\.[\w.]+)`", text)
    files = [f"offline_kit/{name.replace('.', '/')}.py" for name in modules]
    files += [f"offline_kit/{name}" for name in re.findall(rf"`((?:{rooms})/[\w/.]+)`", text)]
    files += re.findall(r"`((?:offline_kit|tests|tools|templates)/[\w/.]+)`", text)
    assert len(files) > 5
    lacking = [name for name in files if "NAME" not in name and not (ROOT / name).exists()]
    assert [name for name in lacking if not (ROOT / name.removesuffix(".py")).is_dir()] == []
