"""Chained notebooks, as a user runs them against a local Kaggle: packages and weights out of other notebooks."""

import base64
import hashlib
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offline_kit.core import files
from offline_kit.kaggle.client.api_types import NewNotebook, NewVersion
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.kaggle.client.uploads import Uploader, UploadFile
from offline_kit.kaggle.push import notebook_runs
from offline_kit.kit import manifest
from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
from offline_kit.local_kaggle.server import LocalKaggleServer
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.packages import pip_settings
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.workflow import kaggle_session
from tests.support.local_kaggle import notebook
from tests.support.matrix import Row, rows, train
from tests.support.pushing import PushSettings, access
from tests.support.workbench import project, run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox]

WORDS = """
import docopt

def evidence(context):
    return {"docopt": docopt.__version__, "file": docopt.__file__}
"""
FOREST = Row(script="sklearn_joblib", framework="sklearn")
SOURCES = {
    "notebook:local/train-the-forest": "folds/*.joblib",
    "dataset:local/forest-data": "*.joblib",
    "model:local/forest-model/scikitLearn/default/1": "**/*.joblib",
}
COMPETITION = """
slug = "some-competition"
public = "input"
hidden = "input"
solution = "expected.csv"
metric = "score.py:nothing"
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalKaggleServer]:
    """A local Kaggle that runs notebooks in its sandbox, at once."""
    shop = EnvironmentOptions(
        index=pip_settings.read_pip_settings(os.environ),
        cache=files.make_folder(files.cache_dir()),
        yes=True,
    )
    settings, runner = LocalKaggleSettings().with_delays(0), SandboxRunner(shop)
    with kaggle_session.serve_local_kaggle(tmp_path / "state", runner, settings=settings) as running:
        yield running


def versions(server: LocalKaggleServer, slug: str) -> list[int]:
    """Return the versions of a notebook that the server made."""
    return sorted(map(int, server.kaggle.store.key_names("kernels", "local", slug, "versions")))


def metadata(folder: Path) -> dict[str, Any]:
    """Return the kernel-metadata of a built kit."""
    found = json.loads((folder / "dist/offline-kit/notebook/kernel-metadata.json").read_text())
    assert isinstance(found, dict)
    return found


def test_packages_made_on_kaggle_are_attached_by_the_offline_notebook(
    server: LocalKaggleServer, tmp_path: Path
) -> None:
    """A notebook with the internet on builds an sdist there; the offline one restores it from that output."""
    folder = project(tmp_path / "plants", ["docopt==0.6.2", "packaging>=20"], WORDS)
    on = ("--on", "local", "--at", server.url)
    built = run("build", folder, *on, "--json").good()
    assert [pin["name"] for pin in built.facts["bundled"]] == ["docopt"], built.facts
    assert versions(server, "plants-wheelhouse") == [1]
    key = ("kernels", "local", "plants-wheelhouse", "versions", "1")
    made = server.kaggle.store.read(*key)
    assert made
    assert (made["enableInternet"], made["isPrivate"]) == (True, True)
    told = metadata(folder)
    assert (told["enable_internet"], told["kernel_sources"]) == (False, ["local/plants-wheelhouse"])
    kit = manifest.read_kit(folder / "dist" / "offline-kit")
    assert [part.name for part in kit.parts] == ["kit", "wheelhouse"]
    assert [entry.original for entry in kit.parts[1].entries] == [
        "packages/docopt-0.6.2-py2.py3-none-any.whl"
    ]

    env = {"OFFLINE_KIT_LOCAL_KAGGLE": server.url}  # where the wheels are fetched
    run("rehearse", folder, "--no-build", "--env", "current", "--json", env=env).good()
    config = folder / "offline-kit.toml"
    config.write_text(config.read_text().replace('competition = "some-competition"\n', ""))
    pushed = run("push", folder, "--to", "local", "--at", server.url, "--json").good()
    there = server.kaggle.datasets.mounted_version("local/some-kit", "local")
    assert there
    assert not list(there[-1].rglob("docopt*"))
    assert [each["dataset"] for each in pushed.facts["parts"]] == ["local/some-kit"], pushed.facts
    run_of = server.kaggle.store.key_folder("kernels", "local", "plants-inference", "versions", "1")
    assert "0.5" in (run_of / "output" / "submission.csv").read_text()

    # The same again runs nothing; other requirements are refused until they are made there, too.
    run("build", folder, *on).good()
    assert versions(server, "plants-wheelhouse") == [1]
    (folder / "requirements.in").write_text("docopt==0.6.1\n")
    stale = run("build", folder)
    assert (stale.code, "requirements changed" in stale.err) == (1, True), stale.err
    run("build", folder, *on).good()
    assert versions(server, "plants-wheelhouse") == [1, 2]


def test_what_cannot_be_met_on_kaggle_is_told_from_there(server: LocalKaggleServer, tmp_path: Path) -> None:
    """pip's words come back, with the cell that failed and what to do; no kit is made."""
    folder = project(tmp_path / "plants", ["docopt==99.9"])
    failed = run("build", folder, "--on", "local", "--at", server.url)
    assert failed.code == 1
    assert "docopt==99.9" in failed.err
    assert not (folder / "dist" / "offline-kit").exists()
    assert not (folder / "offline-kit.wheelhouse.json").exists()


def test_an_image_is_captured_and_built_for(server: LocalKaggleServer, tmp_path: Path) -> None:
    """What a notebook without internet writes down is an image that `build --image` takes."""
    folder = project(tmp_path / "plants", ["packaging>=20"])
    taken = run(
        "image", "capture", "--on", "local", "--at", server.url, "-o", folder / "image.toml", cwd=folder
    )
    taken.good()
    told = tomllib.loads((folder / "image.toml").read_text())
    assert "packaging" in told["packages"]
    made = server.kaggle.store.read("kernels", "local", "plants-image", "versions", "1")
    assert made
    assert made["enableInternet"] is False
    built = run("build", folder, "--image", folder / "image.toml", "--json").good()
    assert built.facts["bundled"] == []


def publish(forest: Path, server: LocalKaggleServer, folder: Path) -> None:
    """Put the forest into a dataset, a model, and the output of a notebook that writes it."""
    data = forest.read_bytes()
    cell = (
        "import base64, pathlib; pathlib.Path('folds').mkdir()\n"
        f"pathlib.Path('folds/forest.joblib').write_bytes(base64.b64decode({base64.b64encode(data).decode()!r}))"
    )
    training = NewNotebook(
        ref="local/train-the-forest", title="Train the forest", text=json.dumps(notebook(cell))
    )
    ways = PushSettings(state_folder=folder / "state-of-push")
    upload = UploadFile(
        path=forest, name="forest.joblib", size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    with KaggleClient(KaggleEndpoint(local=server.url)) as kaggle:
        token = Uploader(kaggle, folder / "uploads").upload_file(upload)
        new = NewVersion(
            ref="local/forest-data",
            title="Forest data",
            version_notes="",
            blob_tokens={"forest.joblib": token},
        )
        kaggle.create_dataset(new)
        token = Uploader(kaggle, folder / "model-uploads", kind="MODEL").upload_file(upload)
        kaggle.create_model("local/forest-model", "Forest model", "")
        kaggle.create_variation(
            NewVersion(
                ref="local/forest-model/scikitLearn/default",
                version_notes="",
                blob_tokens={"deep/down/forest.joblib": token},
            )
        )
        notebook_runs.push_and_follow(training, access(kaggle, ways))


@pytest.mark.usefixtures("python_313")
def test_weights_out_of_other_sources(server: LocalKaggleServer, tmp_path: Path) -> None:
    """A forest in a notebook's output, a dataset and a model predicts in the rehearsal and on Kaggle as in memory."""
    folder = train(FOREST, tmp_path / "project")
    forest = (folder / "models").rename(folder / "trained") / "forest.joblib"
    publish(forest, server, tmp_path)
    for place in ("notebook/folds", "dataset", "model/deep/down"):
        (folder / "copies" / place).mkdir(parents=True)
        (folder / "copies" / place / "forest.joblib").write_bytes(forest.read_bytes())
    config = folder / "offline-kit.toml"
    members = [
        f'[[notebook.models]]\nfiles = "{files}"\nfrom = "{name}"\n' for name, files in SOURCES.items()
    ]
    copies = [f'"{name}" = "copies/{name.partition(":")[0]}"\n' for name in SOURCES]
    said = config.read_text().replace('checkpoints = ["models"]\n', "")
    config.write_text("\n".join([said, *members, "[copies]", *copies]))

    run("build", folder, "--json").good()
    told = metadata(folder)
    attached = {key: told[key] for key in ("kernel_sources", "dataset_sources", "model_sources")}
    assert attached == {
        "kernel_sources": ["local/train-the-forest"],
        "dataset_sources": ["some-kit", "local/forest-data"],
        "model_sources": ["local/forest-model/scikitLearn/default/1"],
    }
    kit = folder / "dist" / "offline-kit"
    run("rehearse", folder, "--no-build", "--yes", "--layout", "old", "--json").good()
    assert same(kit / "rehearsal" / "submission.csv", folder / "expected.csv")

    (folder / "competition.toml").write_text(COMPETITION)
    (folder / "score.py").write_text("def nothing(solution, submission):\n    return 0.0\n")
    server.kaggle.catalog.add_competition(folder)
    run("push", folder, "--to", "local", "--at", server.url, "--json").good()
    output = (
        server.kaggle.store.key_folder("kernels", "local", "project-inference", "versions", "1") / "output"
    )
    assert same(output / "submission.csv", folder / "expected.csv")


def same(ours: Path, theirs: Path) -> bool:
    """Tell whether two submissions hold the same numbers."""
    one, other = rows(ours), rows(theirs)
    return list(one) == list(other) and all(one[key] == pytest.approx(other[key], abs=1e-9) for key in one)
