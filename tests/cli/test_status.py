"""The command `status`: what lies on disk, in words and as an exit code."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from offline_kit.cli.commands.compare import describe_rehearsal
from tests.support import command_line


def run(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OFFLINE_KIT_CACHE": str(project / "cache")}
    return command_line.offline_kit(*words, str(project), "--json", env=environment)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "predict.py").write_text("def main(context):\n    return []\n")
    (tmp_path / "offline-kit.toml").write_text(
        'dataset = "some-kit"\n[notebook]\ntemplate = "function"\nfunction = "predict.py:main"\n'
    )
    return tmp_path


def test_the_kind_of_a_checkpoint_is_its_format_or_its_framework(project: Path) -> None:
    """A booster's own file is called by its name, "other" is what nobody knows."""
    (project / "booster.txt").write_text("tree\nversion=v4\nnum_class=1\n")
    (project / "notes.bin").write_bytes(b"\x00\x01 nothing")
    words = ("build", "--dry-run", "-c", "booster.txt", "-c", "notes.bin")
    said = run(project, *words).stderr
    kinds = {line.split()[0]: line.split()[-1] for line in said.splitlines() if " B " in line}
    assert kinds == {"booster.txt": "LightGBM", "notes.bin": "other"}, said


@pytest.mark.slow
def test_a_damaged_kit_is_a_problem_for_a_script_too(project: Path) -> None:
    """No kit yet is no problem, a whole one neither; a changed file is, in the exit code as well."""
    before = run(project, "status")
    assert (before.returncode, json.loads(before.stdout)["kit"]) == (0, None)
    built = run(project, "build")
    assert built.returncode == 0, built.stderr
    whole = run(project, "status")
    assert (whole.returncode, json.loads(whole.stdout)["ok"]) == (0, True)
    (project / "dist/offline-kit/dataset/code/predict.py").write_text("cut")
    damaged = run(project, "status")
    told = json.loads(damaged.stdout)
    assert (damaged.returncode, told["ok"]) == (1, False)
    assert "predict.py" in told["problems"][0]


def test_a_table_of_an_unchanged_kit_is_shown_on_request_alone(project: Path) -> None:
    """The second build says in one line that nothing changed; --verbose and status show what the kit holds."""
    runs = [run(project, *words) for words in (["build"], ["build"], ["build", "--verbose"], ["status"])]
    assert {done.returncode for done in runs} == {0}
    has_table = ["predict.py" in done.stderr for done in runs]
    assert has_table == [True, False, True, True]
    (line,) = [line for line in runs[1].stderr.splitlines() if json.loads(runs[1].stdout)["kit"][:12] in line]
    assert "unchanged" in line


def tracked(project: Path) -> list[str]:
    """Return what `git add -A` takes."""
    for words in (["init", "-q"], ["add", "-A", "--", ":!cache"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    listed = subprocess.run(["git", "ls-files"], cwd=project, check=True, capture_output=True, text=True)
    return listed.stdout.split()


def test_git_leaves_out_what_a_build_made(project: Path) -> None:
    """The folder of the kit, when a build makes it, says to git that nothing in it is for it."""
    assert run(project, "notebook").returncode == 1
    assert not (project / "dist").exists()
    assert run(project, "build").returncode == 0
    assert sorted(tracked(project)) == ["offline-kit.lock.txt", "offline-kit.toml", "predict.py"]


def test_a_folder_of_the_users_own_stays_as_git_knows_it(project: Path) -> None:
    """Where dist/ was there before, a build does not decide about all that is in it."""
    (project / "dist").mkdir()
    (project / "dist" / "mine.txt").write_text("mine")
    assert run(project, "build").returncode == 0
    assert not (project / "dist" / ".gitignore").exists()
    assert "dist/mine.txt" in tracked(project)


def test_a_damaged_kit_is_not_rehearsed(project: Path) -> None:
    """A file that somebody deleted is told before anything runs, and is built again rather than pushed."""
    assert run(project, "build").returncode == 0
    (project / "dist/offline-kit/dataset/code/predict.py").unlink()
    done = run(project, "rehearse", "--no-build")
    told = json.loads(done.stdout)
    assert (done.returncode, told["hint"]) == (1, f"build it again with 'offline-kit build {project}'")
    assert told["details"] == ["'code/predict.py' is missing"]


@pytest.mark.parametrize("words", [["submit"], ["verify"], ["push", "--no-build"]])
def test_without_a_kit_nobody_has_to_log_in(project: Path, words: list[str]) -> None:
    """That there is no kit comes before what Kaggle asks for."""
    done = run(project, *words)
    assert done.returncode == 1, done.stderr
    assert "there is no kit in" in json.loads(done.stdout)["error"]


def told(cwd: Path, *words: str) -> str:
    """Return what a command says to a person who types it in this folder."""
    done = command_line.offline_kit(
        *words, cwd=cwd, env={**os.environ, "OFFLINE_KIT_CACHE": str(cwd / "cache")}
    )
    done.check_returncode()
    return done.stderr


def test_the_next_step_is_given_what_was_typed(tmp_path: Path) -> None:
    """The project, another place and all settings are repeated: without them it would be about another kit."""
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "predict.py").write_text("def main(context):\n    return []\n")
    words = ("a b", "--out", "out/kit", "--template", "function", "--function", "predict.py:main")
    said = told(tmp_path, "build", *words, "--exclude", "x", "--exclude", "y", "--upgrade")
    options = "--out out/kit --exclude x --exclude y"
    settings = "'a b' --template function --function predict.py:main"
    assert f"next:          offline-kit rehearse {settings} {options}\n" in said
    assert "next:          offline-kit build 'a b' --dry-run\n" in told(tmp_path, "init", "a b", "--yes")


def test_a_failed_rehearsal_is_told_in_words() -> None:
    """What went wrong and what to do, not the report's data."""
    problem = {"what": "cell 3 of the notebook failed", "hint": "fix it", "details": ["a", "b"]}
    assert (
        describe_rehearsal({"passed": False, "problem": problem})
        == "failed: cell 3 of the notebook failed; fix it"
    )
