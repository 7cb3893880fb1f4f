"""The command `doctor`: every check on real folders, machines as they are, and a local Kaggle and index."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core.errors import UsageError
from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.workflow import doctor
from tests.support import command_line
from tests.support.local_index import LocalIndex, make_wheel
from tests.support.local_kaggle import serving

FILES = {
    "predict.py": "def predict(context):\n    return []\n",
    "requirements.in": "left\n",
    "checkpoints/best.npz": "weights",
    "offline-kit.toml": (
        'competition = "some-competition"\nrequirements = ["requirements.in"]\ncheckpoints = ["checkpoints/*"]\n'
        'image = "kaggle-2026-10-cpu"\n[notebook]\nfunction = "predict.py:predict"\n'
    ),
}
MACHINE = ("K101", "K102", "K103", "K104", "K105")
"""Checks of this machine, which differ from one to the next."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def environment(project: Path, **env: str) -> dict[str, str]:
    """Return the environment of a user who has neither credentials nor a pip configuration."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KAGGLE_", "PIP_"))}
    home = project.parent / "home"
    home.mkdir(exist_ok=True)
    own = {
        "HOME": str(home),
        "PIP_CONFIG_FILE": os.devnull,
        "OFFLINE_KIT_CACHE": str(project.parent / "cache"),
    }
    return clean | own | env


def command(*words: str, project: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    return command_line.offline_kit(*words, cwd=project, env=environment(project, **env))


def checked(*words: str, project: Path, code: int = 0, **env: str) -> dict[str, dict[str, Any]]:
    """Return what each check of the project and of what is outside says, by its code."""
    machine = [word for name in MACHINE for word in ("--ignore", name)]
    done = command("doctor", "--json", *machine, *words, project=project, **env)
    assert done.returncode == code, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["ok"] is (code == 0)
    return {one["code"]: one for one in told["checks"]}


def states(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {code: one["state"] for code, one in found.items()}


def test_the_table_is_in_order() -> None:
    """Codes are unique, sorted, and begin with what they are about."""
    codes = [one.code for one in doctor.CHECKS]
    assert codes == sorted(set(codes))
    assert all(re.fullmatch(r"K[123]\d\d", code) for code in codes)


def test_every_problem_has_a_remedy(tmp_path: Path) -> None:
    """Whatever warns or fails says what to do, on an empty folder as on a broken one."""
    (tmp_path / "requirements.txt").write_text("left ==\n")
    for check, result in doctor.run_checks(tmp_path):
        assert result.what
        if result.state in ("warning", "failed"):
            assert result.remedy, check


def test_a_good_project(project: Path) -> None:
    """What is good says what it is; what needs the network is told, not asked."""
    found = checked(project=project)
    expected = dict.fromkeys(("K201", "K202", "K203", "K204", "K205", "K207"), "ok")
    expected |= dict.fromkeys(("K208", "K301"), "skipped")
    assert states(found) == expected | {"K206": "warning", "K302": "warning"}
    assert "1 requirement: requirements.in" in found["K203"]["what"]
    assert "predict" not in found["K205"]["remedy"]
    assert not (project / "offline-kit.lock.txt").exists()


def test_checkpoints_are_scanned_once(project: Path) -> None:
    """Several checks look at the checkpoints; what was scanned is not announced again."""
    lock = 'dataset = "some-kit"\nrequirements = []\n'
    settings = project / "offline-kit.toml"
    settings.write_text(settings.read_text().replace('requirements = ["requirements.in"]\n', lock))
    assert command("build", project=project).returncode == 0
    done = command("doctor", "--ignore", "K1", project=project, OFFLINE_KIT_CACHE=str(project.parent / "new"))
    assert done.stderr.count("Scanning 1 file") == 1, done.stderr


def test_what_the_project_itself_asks_for_counts(project: Path) -> None:
    """Its groups are read beside the files of requirements, as a build reads them."""
    (project / "pyproject.toml").write_text('[dependency-groups]\npredict = ["right>=1"]\n')
    told = project / "offline-kit.toml"
    told.write_text('groups = ["predict"]\n' + told.read_text())
    assert "2 requirements: requirements.in" in checked(project=project)["K203"]["what"]


def test_the_template_is_that_of_a_build(project: Path) -> None:
    """Where no template is named the checkpoints decide it, here as in a build; broken ones decide nothing."""
    (project / "checkpoints/best.npz").unlink()
    booster = project / "checkpoints/fold0.txt"
    booster.write_text("tree\nversion=v4\nnum_class=1\nend of trees\n")
    told = project / "offline-kit.toml"
    told.write_text(told.read_text().partition("[notebook]")[0])
    assert checked(project=project)["K205"]["what"] == "template 'predict' for 'some-competition'"
    booster.rename(project / "checkpoints/best.npz").write_text("weights")
    found = checked(project=project)["K205"]
    assert found["state"] == "warning"
    assert 'task = "tabular"' in found["remedy"]
    assert found["remedy"].endswith("in [notebook]")
    (project / "checkpoints/model.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    assert checked(project=project, code=1)["K205"]["state"] == "skipped"


def test_an_adopted_notebook_is_not_plain(project: Path) -> None:
    """A notebook with a source predicts with its own cells, whatever the checkpoints are."""
    cell: dict[str, object] = {
        "cell_type": "code",
        "source": "print(1)",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }
    book = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (project / "mine.ipynb").write_text(json.dumps(book))
    told = project / "offline-kit.toml"
    told.write_text(told.read_text().replace('function = "predict.py:predict"', 'source = "mine.ipynb"'))
    found = checked(project=project)["K205"]
    assert found["state"] == "ok", found
    assert "mine.ipynb" in found["what"]


def test_a_pickle_that_runs_something_is_found(project: Path) -> None:
    """The doctor looks into trained files as a build does, and executes nothing of them."""
    (project / "checkpoints/best.npz").unlink()
    (project / "checkpoints/model.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    told = checked(project=project, code=1)
    assert "system" in str(told["K204"])
    assert not (project / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "code", "says"),
    [
        ("offline-kit.toml", "chekpoints = []\nrows = -1\n", "K201", "has 2 problems"),
        ("offline-kit.toml", 'image = "kaggle-1999"\n', "K202", "there is no image 'kaggle-1999'"),
        (
            "offline-kit.toml",
            'requirements = ["gone.in"]\n',
            "K201",
            "gone.in'",
        ),
        ("requirements.in", "left ==\n", "K203", "cannot be read"),
        ("checkpoints/best.npz", "", "K204", "problem with the checkpoints"),
        ("predict.py", "def other(): ...\n", "K205", "defines no 'predict'"),
    ],
)
def test_what_is_wrong_is_said_by_its_check(
    project: Path, name: str, content: str, code: str, says: str
) -> None:
    """One broken thing fails its own check with exit code 1; what hangs on it is skipped, the rest goes on."""
    (project / name).write_text(content)
    found = checked(project=project, code=1)
    assert [each for each, state in states(found).items() if state == "failed"] == [code]
    assert re.search(says, found[code]["what"])
    assert found[code]["remedy"]


def test_the_freeze_is_compared_with_the_requirements(project: Path) -> None:
    """A fresh freeze is current, one of other requirements or of another image is not; no index is asked for that."""
    with LocalIndex() as index:
        index.add(make_wheel(project.parent / "wheels", "left", "1.0"))
        built = command("build", project=project, PIP_INDEX_URL=index.url)
        assert built.returncode == 0, built.stderr
    assert checked(project=project)["K206"]["what"] == "'offline-kit.lock.txt' is current"
    (project / "requirements.in").write_text("left\nright\n")
    assert "of other requirements" in checked(project=project)["K206"]["what"]
    toml = project / "offline-kit.toml"
    toml.write_text(toml.read_text().replace("2026-10-cpu", "2026-10-gpu"))
    assert "was made for kaggle-2026-10-cpu, not" in checked(project=project)["K206"]["what"]


def test_another_image_is_compared_with_the_kit(project: Path) -> None:
    """A version that moved is named, required or only imported; only an unmet requirement fails the check."""

    def write_image(name: str, **packages: str) -> str:
        lines = [f'{package} = "{version}"' for package, version in packages.items()]
        path = project / f"{name}.toml"
        path.write_text("\n".join([f'name = "{name}"', 'python = "3.11.4"', "[packages]", *lines]))
        return str(path)

    (project / "predict.py").write_text("import right\n" + FILES["predict.py"])
    (project / "requirements.in").write_text("left<2\n")
    settings = project / "offline-kit.toml"
    image = write_image("old", left="1.0", right="3.0", other="1.0")
    settings.write_text(settings.read_text().replace("kaggle-2026-10-cpu", image))
    with LocalIndex() as index:
        index.add(make_wheel(project.parent / "wheels", "left", "1.0"))
        built = command("build", project=project, PIP_INDEX_URL=index.url)
        assert built.returncode == 0, built.stderr
    same = checked("--image", image, project=project)["K208"]
    assert same["state"] == "ok"
    moved_image = write_image("moved", left="1.2+cpu", right="3.1", other="2.0")
    moved = checked("--image", moved_image, project=project)["K208"]
    assert (moved["state"], moved["details"]) == ("warning", ["left 1.0 -> 1.2+cpu", "right 3.0 -> 3.1"])
    broken = checked("--image", write_image("broken", left="2.0", right="3.0+gpu"), project=project, code=1)
    assert broken["K208"]["state"] == "failed"
    assert broken["K208"]["details"][1:] == ["left 1.0 -> 2.0"]
    assert "left<2" in broken["K208"]["details"][0]


def test_an_index_that_does_not_answer(project: Path) -> None:
    """--online asks the index that pip is configured for: one that answers is named, a silent one fails the check."""
    with LocalIndex() as index:
        address = index.url.replace("://", "://me:pass-of-mine@")
        good = checked("--online", "--ignore", "K302", project=project, PIP_INDEX_URL=address)
    assert good["K301"]["state"] == "ok"
    bad = checked("--online", "--ignore", "K302", project=project, PIP_INDEX_URL=address, code=1)
    assert (bad["K301"]["state"], bool(bad["K301"]["remedy"])) == ("failed", True)
    assert "pass-of-mine" not in json.dumps([good, bad])
    assert "127.0.0.1" in good["K301"]["what"]


def test_sources_of_credentials_are_named_and_never_shown(project: Path) -> None:
    """Variables and files are named in the client's order; no value of theirs is in any output."""
    folder = project.parent / "home" / ".kaggle"
    folder.mkdir(parents=True)
    (folder / "kaggle.json").write_text('{"username": "somebody", "key": "planted-key"}')
    (folder / "kaggle.json").chmod(0o600)
    done = command("doctor", project=project, KAGGLE_API_TOKEN="planted-token")
    assert "KAGGLE_API_TOKEN, then" in done.stdout
    assert str(folder / "kaggle.json") in done.stdout
    assert not re.search("planted-(key|token)", done.stdout + done.stderr)
    (folder / "kaggle.json").chmod(0o644)
    assert "others on this machine can read" in checked(project=project)["K302"]["what"]
    (folder / "kaggle.json").write_text('{"username": "somebody"}')
    assert checked(project=project)["K302"]["what"] == "no credentials for Kaggle were found"
    with_env = checked(project=project, KAGGLE_KEY="planted-key")
    assert with_env["K302"]["state"] == "warning"
    assert "and KAGGLE_KEY" in with_env["K302"]["what"]


def test_a_login_is_tried_online(project: Path) -> None:
    """--online logs in with Kaggle's own client and names the account."""
    home = project.parent / "home"
    home.mkdir()
    with serving(project.parent / "there") as bench:
        there = KaggleEndpoint(local=bench.server.url, username="alice", key="key-of-alice")
        env = there.build_environment(environment(project), str(home))
        found = checked("--online", "--ignore", "K301", "--ignore", "K2", project=project, code=0, **env)
    assert found["K302"]["what"].startswith("logged in as 'alice' (LEGACY_API_KEY)")


def test_the_real_kaggle_is_out_of_reach_here(project: Path) -> None:
    """In a test suite even --online does not take credentials to Kaggle: the check says so."""
    env = {"KAGGLE_USERNAME": "somebody", "KAGGLE_KEY": "planted-key", "OFFLINE_KIT_NO_PRODUCTION": "1"}
    found = checked("--online", "--ignore", "K301", "--ignore", "K2", project=project, code=1, **env)
    assert "blocks the real Kaggle" in found["K302"]["what"]


def test_the_machine_is_looked_at(project: Path) -> None:
    """uv, Python, sandbox and disk are told for people, one line each; no place for the cache is a failure."""
    done = command("doctor", "--ignore", "K2", "--ignore", "K3", project=project)
    assert [line[:4] for line in done.stdout.splitlines() if line.startswith("K")] == [*MACHINE]
    (project.parent / "cache").write_text("no folder")
    closed = command("doctor", "--ignore", "K2", project=project)
    assert (closed.returncode, "cannot write below" in closed.stdout) == (1, True)


def test_an_unknown_code_is_refused(tmp_path: Path) -> None:
    """--ignore takes codes and their beginnings; a slip is an error that names them all."""
    with pytest.raises(UsageError, match="begins with 'K9'") as told:
        doctor.run_checks(tmp_path, ignore=["K9"])
    assert "K101" in told.value.hint
    assert doctor.run_checks(tmp_path, ignore=["K"]) == []
