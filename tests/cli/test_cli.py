"""The front door: exit codes, streams and words."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from tests.support import command_line
from tests.support.local_index import LocalIndex, make_wheel


def offline_kit(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command line as a user does."""
    env = os.environ | {"OFFLINE_KIT_CACHE": str(cwd / "cache"), "HOME": str(cwd)}
    return command_line.offline_kit(*words, cwd=cwd, env=env)


@pytest.mark.parametrize(
    "words", [["--help"], ["build", "-h"], ["rehearse", "-h"], ["image", "-h"], ["--version"]]
)
def test_help_is_always_there(words: list[str], tmp_path: Path) -> None:
    """Help goes to stdout and ends with 0."""
    done = offline_kit(*words, cwd=tmp_path)
    assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["biuld"], "error[usage]: no such command"),
        (["build", "--sdists", "maybe"], "'maybe'"),
        (["build", "nowhere"], "there is no folder 'nowhere'"),
        (["build", "--image", "kaggle-2026-10-gpuu"], "kaggle-2026-10-gpu"),
        (["build", "-r", "no.txt"], "no.txt"),
        (["submit", "--upgrade"], "no such option '--upgrade'"),
        (["status", "--upgrade"], "no such option '--upgrade'"),
        (["notebook", "--upgrade"], "no such option '--upgrade'"),
        (["image", "show", "no-image"], "no-image"),
    ],
)
def test_asking_for_something_wrong_ends_with_2(words: list[str], says: str, tmp_path: Path) -> None:
    """Usage errors name the thing, on stderr, without a traceback."""
    (tmp_path / "requirements.txt").write_text("")
    done = offline_kit(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_command_takes_the_words_that_a_configuration_takes() -> None:
    """They stand in one place: no command lists words of its own."""
    from offline_kit.cli.main import cli
    from offline_kit.project import config_keys

    known = {
        value for name, value in vars(config_keys).items() if name.isupper() and isinstance(value, tuple)
    }
    known.add(("here", *config_keys.KAGGLES))
    taken = {
        option.name: tuple(option.type.choices)
        for command in cli.commands.values()
        for option in command.params
        if isinstance(option, click.Option) and isinstance(option.type, click.Choice)
    }
    assert {"engine", "sdists", "env", "installer", "layout", "on", "to"} <= set(taken)
    assert set(taken.values()) <= known


def test_a_cache_that_is_no_folder_is_named(tmp_path: Path) -> None:
    """OFFLINE_KIT_CACHE may point anywhere: exit 4 and its name, before anything is downloaded."""
    (tmp_path / "cache").write_text("")
    (tmp_path / "requirements.txt").write_text("")
    done = offline_kit("build", cwd=tmp_path)
    assert (done.returncode, str(tmp_path / "cache") in done.stderr) == (4, True), done.stderr


@pytest.mark.parametrize(
    "words", [["build"], ["build", "--dry-run"], ["rehearse"], ["ship", "--to", "local"]]
)
def test_a_folder_without_a_project_is_not_built(words: list[str], tmp_path: Path) -> None:
    """In the wrong folder nothing is written, and it is said that there is no project."""
    place = tmp_path / "wrong"
    place.mkdir()
    done = offline_kit(*words, str(place), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"there is no project in '{place}'" in done.stderr
    assert list(place.iterdir()) == []


def test_json_errors_are_one_object_on_stdout(tmp_path: Path) -> None:
    """A script reads the error, the hint and the details from stdout, those of the parser too."""
    parsed = json.loads(offline_kit("build", "--sdists", "maybe", "--json", cwd=tmp_path).stdout)
    assert (parsed["ok"], parsed["code"]) == (False, "usage")
    (tmp_path / "offline-kit.toml").write_text("chekpoints = []\nrows = -1\n")
    done = offline_kit("build", "--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert done.returncode == 2
    assert answer["ok"] is False
    assert len(answer["details"]) == 2
    assert "did you mean 'checkpoints'?" in answer["details"][0]


def test_a_checkpoint_may_be_named_from_here(tmp_path: Path) -> None:
    """A shell completes names of the current folder; what the project itself has by that name goes first."""
    models = tmp_path / "house" / "models"
    models.mkdir(parents=True)
    (models / "a.ckpt").write_bytes(b"1")
    (tmp_path / "house/predict.py").write_text("def main(context):\n    return []\n")

    def names(*words: str) -> list[str]:
        more = ("--function", "predict.py:main", "--dataset", "some-kit", "--dry-run", "--json")
        done = offline_kit("build", "house", *words, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return [each["name"] for each in json.loads(done.stdout)["checkpoints"]]

    assert names("-c", "house/models/a.ckpt") == names("-c", "models/a.ckpt") == ["models/a.ckpt"]
    assert names("-c", "house/models/*.ckpt") == ["models/a.ckpt"]
    (tmp_path / "house/house/models").mkdir(parents=True)
    (tmp_path / "house/house/models/a.ckpt").write_bytes(b"2")
    assert names("-c", "house/models/a.ckpt") == ["house/models/a.ckpt"]


def test_images_are_listed_and_shown(tmp_path: Path) -> None:
    """`image list` names the built-in images; `image show NAME PACKAGE` tells one version."""
    listed = json.loads(offline_kit("image", "list", "--json", cwd=tmp_path).stdout)
    assert {"kaggle-2026-10-cpu", "kaggle-2026-10-gpu", "kaggle-v170-cpu"} <= {
        row["name"] for row in listed["images"]
    }
    shown = json.loads(
        offline_kit("image", "show", "kaggle-2026-10-cpu", "Torch", "--json", cwd=tmp_path).stdout
    )
    assert (shown["package"], shown["version"]) == ("torch", "2.11.0+cpu")
    human = offline_kit("image", "show", "kaggle-v170-cpu", cwd=tmp_path)
    assert "3.12" in human.stdout
    assert "reconstruction" in human.stdout


def test_the_versions_of_an_image_can_be_installed(tmp_path: Path) -> None:
    """`--constraints` prints a file for `pip install -c`, so that a training has what the notebook will have."""
    printed = offline_kit("image", "show", "kaggle-2026-10-cpu", "--constraints", cwd=tmp_path).stdout
    first, *lines = printed.splitlines()
    assert first.startswith("# kaggle-2026-10-cpu, Python 3.")
    assert "torch==2.11.0" in lines
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][A-Za-z0-9.!]*", line) for line in lines)


def test_a_package_that_the_image_lacks(tmp_path: Path) -> None:
    """Asking for a package that is not in the image says so and guesses."""
    done = offline_kit("image", "show", "kaggle-2026-10-cpu", "lightgmb", cwd=tmp_path)
    assert done.returncode == 2
    assert "lightgbm" in done.stderr


def test_a_bug_of_ours_leaves_a_report_and_ends_with_3(tmp_path: Path) -> None:
    """Whatever escapes is named in one line, as JSON too, and its traceback is in the report."""
    code = "import offline_kit.cli.main as c; c.cli.callback = lambda: 1 / 0; c.main(['status', '--json'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3
    assert json.loads(done.stdout)["ok"] is False
    assert "ZeroDivisionError" in (tmp_path / "offline-kit-crash.log").read_text()
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", ["image list", "--help", "image list --json", "nothing --json"])
def test_a_full_disk_behind_stdout_is_no_bug(words: str, tmp_path: Path) -> None:
    """Results that cannot be written are an error of the machine, without a traceback or a crash report."""
    done = shell(f"{sys.executable} -m offline_kit {words} >/dev/full", tmp_path)
    assert done.returncode == (2 if words.startswith("nothing") else 4), done.stderr
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    if not words.startswith("nothing"):
        assert "error[stdout-not-writable]: stdout cannot be written: No space left on device" in done.stderr
    assert not (tmp_path / "offline-kit-crash.log").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize("words", ["image list", "image list --json"])
def test_a_closed_stdout_is_no_bug(words: str, tmp_path: Path) -> None:
    """`>&-` is said, and is no bug of ours."""
    done = shell(f"{sys.executable} -m offline_kit {words} >&-", tmp_path)
    assert done.returncode == 4, done.stderr
    assert "error[stdout-not-writable]: stdout cannot be written: it is closed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", ["doctor", "nothing"])
def test_a_full_disk_behind_stderr_ends_without_a_bug(words: str, tmp_path: Path) -> None:
    """Where not even an error can be said, the exit code says it."""
    done = shell(f"{sys.executable} -m offline_kit {words} 2>/dev/full", tmp_path)
    assert done.returncode == 4
    assert not (tmp_path / "offline-kit-crash.log").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    """`offline-kit image show … | head` ends well and says nothing of pipes."""
    words = f"{sys.executable} -m offline_kit image show kaggle-2026-10-cpu"
    done = shell(f"({words}; echo code $? >&2) | head -1", tmp_path)
    assert done.stderr.strip() == "code 0"


def shell(line: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a line of shell as a user does."""
    env = os.environ | {"OFFLINE_KIT_CACHE": str(cwd / "cache"), "HOME": str(cwd)}
    return subprocess.run(["/bin/sh", "-c", line], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent otherwise there")
def test_an_interrupt_does_not_wait_for_a_silent_server(tmp_path: Path) -> None:
    """^C while a download hangs ends with 130 at once, as one object for a script, and leaves no kit."""
    (tmp_path / "requirements.txt").write_text("left\n")
    env = os.environ | {"OFFLINE_KIT_CACHE": str(tmp_path / "cache"), "PIP_CONFIG_FILE": os.devnull}
    env = {
        name: value for name, value in env.items() if name not in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")
    }
    with LocalIndex() as index:
        entry = index.add(make_wheel(tmp_path / "wheels", "left", "1.0"))
        index.stall(entry.filename, seconds=25, times=9)
        words = [sys.executable, "-m", "offline_kit", "build", ".", "--json"]
        process = subprocess.Popen(
            words,
            cwd=tmp_path,
            env=env | {"PIP_INDEX_URL": index.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not index.asked(entry.filename):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)  # the index would keep it waiting for 25 s and more
    assert (process.returncode, json.loads(out)["error"]) == (130, "interrupted"), err
    assert not (tmp_path / "dist" / "offline-kit").exists()
