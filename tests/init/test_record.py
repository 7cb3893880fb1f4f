"""`init --record`: one run of a script shows what the project really uses."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core.errors import OfflineKitError
from offline_kit.init import config_proposal
from offline_kit.init.config_proposal import ConfigProposal
from offline_kit.project import config
from tests.support import command_line

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PREDICT = """
import json, os, pickle, sys
from pathlib import Path

sys.path.append("lib")
import labels
import thing
import yaml
from shapes.net import SIZE

yaml.safe_load(open("settings.yaml"))
pickle.load(open("models/fold0.pkl", "rb"))
pickle.load(open("weights.pt", "rb"))
native = [f"models/net{n}.onnx" for n in range(1)]
cache = Path.home() / ".cache/huggingface"
(cache / "token").read_text()
(cache / "hub/models--owner--name/refs/main").read_text()
(cache.parent / "torch/hub/checkpoints/resnet.pth").read_text()
(cache.parent / "kagglehub/datasets/owner/rows.csv").read_text()
rows = open("input/test.csv").read() + open("extra.csv").read()
open("submission.csv", "w").write(rows)
open("submission.csv").read()
"""
FILES = {
    "predict.py": PREDICT,
    "unused.py": "",
    "lib/labels.py": "",
    "shapes/__init__.py": "",
    "shapes/net.py": "SIZE = 1",
    "shapes/unused.py": "",
    "settings.yaml": "a: 1",
    "unused.yaml": "a: 1",
    "models/net0.onnx": "x",
    "models/other.onnx": "x",
    "input/test.csv": "id\n1\n",
    "extra.csv": "id\n2\n",
    "home/.cache/huggingface/token": "hf_" + "x" * 30,
    "home/.cache/huggingface/hub/models--owner--name/refs/main": COMMIT,
    "home/.cache/torch/hub/checkpoints/resnet.pth": "x",
    "home/.cache/torch/hub/checkpoints/other.pth": "x",
    "home/.cache/kagglehub/datasets/owner/rows.csv": "x",
    # Installed from a repository; needs another distribution.
    "site/thing.py": "import part",
    "site/thing-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: Thing\nVersion: 1.2\nRequires-Dist: part>=1\n",
    "site/thing-1.2.dist-info/top_level.txt": "thing\n",
    "site/thing-1.2.dist-info/direct_url.json": json.dumps(
        {"url": "https://me:pass@host.test/thing.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}
    ),
    "site/sitecustomize.py": "import builtins\nbuiltins.OWN = True\n",
}


def add_distribution(site: Path, name: str, module: str) -> None:
    """Install a distribution with one empty module."""
    (site / f"{module}.py").write_text("")
    metadata = site / f"{name.replace('-', '_')}-3.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.0\n")
    (metadata / "top_level.txt").write_text(f"{module}\n")


def run_python(*words: str) -> str:
    return " ".join([f'"{sys.executable}"', *words])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a script, in an environment with packages and a home of its own."""
    root = tmp_path / "project"
    for name, text in FILES.items():
        path = (root if not name.startswith(("home/", "site/")) else tmp_path) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    add_distribution(tmp_path / "site", "part", "part")
    for name in ("models/fold0.pkl", "models/old.pkl", "weights.pt"):
        (root / name).write_bytes(pickle.dumps({"weight": 1.0}))
    for name in ("HF_HOME", "KAGGLEHUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return root


def propose(project: Path, command: str, **options: Any) -> ConfigProposal:
    return config_proposal.propose_config(project, record=command, **options)


def test_what_a_run_used_is_proposed(project: Path) -> None:
    """Packages at their versions, modules, checkpoints, other files and caches; no code, inputs, outputs, tokens."""
    proposal = propose(project, run_python("predict.py"))
    values = {setting.key: setting.value for setting in proposal.settings if setting.value is not None}
    assert values["requirements"] == ["requirements-recorded.in"]
    assert values["locks"] == ["requirements-recorded.txt"]
    assert values["modules"] == ["lib/labels.py", "shapes"]
    assert values["checkpoints"] == ["weights.pt", "models/net0.onnx", "models/fold0.pkl"]
    caches = ["caches/huggingface/hub/models--owner--name", "caches/torch/hub/checkpoints/resnet.pth"]
    assert values["preprocessing"] == ["settings.yaml", *caches]
    texts = {
        path.name: [line for line in text.splitlines() if line[0] != "#"]
        for path, text in proposal.files.items()
    }
    assert texts["requirements-recorded.in"] == [
        "pyyaml",
        f"thing @ git+https://host.test/thing.git@{COMMIT}",
    ]
    versions = dict(line.split("==") for line in texts["requirements-recorded.txt"])
    assert (versions["part"], versions["thing"]) == ("3.0", "1.2")
    assert versions.keys() == {"part", "pyyaml", "thing"}


def test_the_proposal_is_written_and_usable(project: Path) -> None:
    """The configuration loads; the link leads to the cache; a second run with --force changes nothing."""
    done = command_line.offline_kit("init", "--record", run_python("predict.py"), "--yes", cwd=project)
    assert done.returncode == 0, done.stderr
    loaded = config.load_config(project, {})
    assert [path.name for path in loaded.locks] == ["requirements-recorded.txt"]
    assert (project / "caches/huggingface/hub/models--owner--name/refs/main").read_text() == COMMIT
    before = (project / "offline-kit.toml").read_bytes()
    again = command_line.offline_kit(
        "init", "--record", run_python("predict.py"), "--force", "--yes", cwd=project
    )
    assert again.returncode == 0, again.stderr
    assert (project / "offline-kit.toml").read_bytes() == before


@pytest.mark.slow
def test_a_stated_requirement_is_kept(project: Path) -> None:
    """Only what the project's own file lacks is added, beside it; one edition of OpenCV is as good as another."""
    (project / "requirements.txt").write_text("PyYAML>=6\nopencv_python\n")
    add_distribution(project.parent / "site", "opencv-python-headless", "cv2")
    with (project / "predict.py").open("a") as script:
        script.write("import cv2\n")
    proposal = propose(project, run_python("predict.py"))
    requirements = next(setting.value for setting in proposal.settings if setting.key == "requirements")
    assert requirements == ["requirements.txt", "requirements-recorded.in"]
    assert [
        line.split()[0] for line in proposal.files[project / "requirements-recorded.in"].splitlines()
    ] == ["#", "thing"]


@pytest.mark.slow
def test_an_existing_configuration_is_completed(project: Path) -> None:
    """With --force its keys stay, notes say what they lack, and no file is written that no key names."""
    (project / "requirements.in").write_text("pyyaml\n")
    existing = 'requirements = ["requirements.in"]\ncheckpoints = ["models/*.pkl", "*.pt"]\nlocks = []\n'
    (project / "offline-kit.toml").write_text(existing)
    proposal = propose(project, run_python("predict.py"), force=True)
    assert proposal.files == {}
    assert [note for note in proposal.notes if "`checkpoints` lacks" in note and "net0.onnx" in note]
    assert [note for note in proposal.notes if "thing @" in note and "pyyaml" not in note]


def test_a_failing_script_writes_nothing(project: Path) -> None:
    """Its exit code is the command's."""
    (project / "predict.py").write_text("import yaml\nraise SystemExit(7)\n")
    done = command_line.offline_kit(
        "init", "--record", run_python("predict.py"), "--yes", "--json", cwd=project
    )
    assert done.returncode == 7
    assert json.loads(done.stdout)["code"] == "recorded-command-failed"
    assert not (project / "offline-kit.toml").exists()


def test_the_environment_stays_as_it_is(project: Path) -> None:
    """The script has its arguments and folder, the environment's own sitecustomize, and children that are watched too."""
    (project / "predict.py").write_text(
        "import os, subprocess, sys\n"
        "assert OWN and sys.argv[1:] == ['a b'] and os.path.exists('settings.yaml')\n"
        "subprocess.run([sys.executable, '-c', 'import yaml; assert OWN'], check=True)\n"
    )
    proposal = propose(project, run_python("predict.py", '"a b"'))
    assert "pyyaml" in proposal.files[project / "requirements-recorded.txt"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("", "command-not-found"),
        ("'python predict.py", "command-not-found"),
        ("no-such-program-here predict.py", "command-not-found"),
        (run_python("-I", "-c", "pass"), "script-not-watched"),
    ],
)
def test_what_cannot_be_watched(command: str, code: str, project: Path) -> None:
    with pytest.raises(OfflineKitError) as caught:
        propose(project, command or " ")
    assert caught.value.code == code
