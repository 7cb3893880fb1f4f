"""kagglehub's datasets and models, and the plain client's models, on the local Kaggle."""

import json
from pathlib import Path
from typing import Any

from tests.support.competitions import competition
from tests.support.hub_client import bench as bench  # a fixture among them
from tests.support.hub_client import hub, needs_hub
from tests.support.local_kaggle import KERNEL, SLUG, Bench, needs_client, notebook

MODEL = "alice/my-model/pyTorch/base"
WHICH = {"ownerSlug": "alice", "modelSlug": "my-model", "framework": "MODEL_FRAMEWORK_PY_TORCH"}
WHICH |= {"instanceSlug": "base"}


def folder(bench: Bench, **files: str) -> Path:
    """Write text files below a folder; "__" in a name stands for "/"."""
    place = bench.folder / "mine"
    for name, text in files.items():
        path = place / (name.replace("__", "/") + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place


def model(method: str, bench: Bench, user: str = "alice", **body: Any) -> dict[str, Any]:
    return bench.rpc(f"models.ModelApiService/{method}", user, **body)


@needs_hub
def test_kagglehub_uploads_and_downloads_a_dataset(bench: Bench) -> None:
    """With its folders, private, and a second upload as a new version."""
    place = folder(bench, top="t", sub__deep="d")
    upload = f"kagglehub.dataset_upload({SLUG!r}, {str(place)!r})"
    hub(bench, upload)
    bench.ready()
    assert bench.names() == {"sub/deep.txt": 1, "top.txt": 1}
    (place / "top.txt").write_text("two")
    hub(bench, upload)
    bench.ready(version=2)
    got = hub(bench, f"print('GOT', kagglehub.dataset_download({SLUG!r}))")
    assert Path(got[0], "top.txt").read_text() == "two"
    assert Path(got[0], "sub/deep.txt").read_text() == "d"


@needs_hub
def test_kagglehub_uploads_and_downloads_a_model(bench: Bench) -> None:
    """Model, variation and version are made as needed; versions stay apart; others are told 403."""
    place = folder(bench, weights="one", sub__deep="d")
    upload = f"kagglehub.model_upload({MODEL!r}, {str(place)!r})"
    hub(bench, upload)
    bench.until(lambda: model("GetModelInstance", bench, **WHICH).get("versionNumber") == 1)
    (place / "weights.txt").write_text("two")
    hub(bench, upload)
    bench.until(
        lambda: (
            len(model("ListModelInstanceVersionFiles", bench, **WHICH, versionNumber=2).get("files", [])) == 2
        )
    )
    code = "".join(f"print('GOT', kagglehub.model_download({MODEL!r} + '/{n}'))\n" for n in (1, 2))
    one, two = hub(bench, code)
    assert (Path(one, "weights.txt").read_text(), Path(two, "weights.txt").read_text()) == ("one", "two")
    assert Path(two, "sub/deep.txt").read_text() == "d"
    assert model("GetModelInstance", bench, "bob", **WHICH)["status_code"] == 403


@needs_hub
def test_kagglehub_downloads_a_competition(bench: Bench) -> None:
    """One of its files, and all of them."""
    bench.kaggle.catalog.add_competition(competition(bench.folder))
    code = "print('GOT', kagglehub.competition_download('small-digits', path='test.csv'))\n"
    code += "print('GOT', kagglehub.competition_download('small-digits', force_download=True))"
    one, every = hub(bench, code)
    assert Path(one).read_text() == "id,x\np1,4\n"
    assert sorted(path.name for path in Path(every).iterdir()) == [
        "sample_submission.csv",
        "test.csv",
        "train.csv",
    ]


@needs_hub
def test_kagglehub_downloads_the_output_of_a_notebook(bench: Bench) -> None:
    """Of the newest version, or of the one that is named; one file of it, or all."""
    words = {"slug": KERNEL, "newTitle": "My inference", "language": "python", "kernelType": "notebook"}
    for number in (1, 2):
        cell = "import pathlib\npathlib.Path('sub').mkdir()\npathlib.Path('sub/b.txt').write_text('b')\n"
        cell += f"pathlib.Path('a.txt').write_text('{number}')"
        bench.rpc("SaveKernel", text=json.dumps(notebook(cell)), isPrivate=True, **words)
        bench.finished(number)
    code = f"print('GOT', kagglehub.notebook_output_download('{KERNEL}'))\n"
    code += f"print('GOT', kagglehub.notebook_output_download('{KERNEL}/versions/1', path='a.txt'))"
    every, one = hub(bench, code)
    assert Path(every, "a.txt").read_text() == "2"
    assert Path(every, "sub/b.txt").read_text() == "b"
    assert Path(one).read_text() == "1"


@needs_client
def test_the_client_lists_and_deletes_models(bench: Bench) -> None:
    """Models, variations and versions: list, get, files, download, delete; a version's number is not given again."""
    model("CreateModel", bench, ownerSlug="alice", slug="my-model", title="My model", isPrivate=True)
    version(bench, "CreateModelInstance", framework=WHICH["framework"], instanceSlug="base")
    for _ in range(2):
        version(bench, "CreateModelInstanceVersion")
    ask: dict[str, Any] = {**WHICH, "versionNumber": 3}
    bench.until(lambda: bool(model("ListModelInstanceVersionFiles", bench, **ask).get("files")))
    assert "alice/my-model" in bench.cli("models", "list", "--owner", "alice").stdout
    assert '"versionNumber": 3' in bench.cli("models", "variations", "get", MODEL).stdout
    listed = bench.cli("models", "variations", "versions", "list", MODEL, "-v")
    assert [line[0] for line in listed.stdout.splitlines() if line[0].isdecimal()] == ["3", "2", "1"], listed
    assert "a.txt" in bench.cli("models", "variations", "versions", "files", f"{MODEL}/3").stdout
    goal = bench.folder / "goal"
    done = bench.cli("models", "variations", "versions", "download", f"{MODEL}/3", "-p", goal)
    assert done.returncode == 0, done.stderr
    assert bench.cli("models", "variations", "versions", "delete", f"{MODEL}/2", "-y").returncode == 0
    versions = model("ListModelInstanceVersions", bench, **WHICH)["versionList"]["versions"]
    assert [each["versionNumber"] for each in versions] == [3, 1]
    assert model("ListModelInstanceVersionFiles", bench, **WHICH, versionNumber=2)["status_code"] == 404
    assert model("DeleteModelInstance", bench, "bob", **WHICH)["status_code"] == 403
    assert bench.cli("models", "variations", "delete", MODEL, "-y").returncode == 0
    assert model("GetModelInstance", bench, **WHICH)["status_code"] == 404
    assert bench.cli("models", "delete", "alice/my-model", "-y").returncode == 0
    assert "alice/my-model" not in bench.cli("models", "list", "--owner", "alice").stdout


def version(bench: Bench, method: str, **body: Any) -> None:
    """Give a model's variation a version of one empty file."""
    model(method, bench, **WHICH, body={"files": bench.upload({"a.txt": b""}), **body})


@needs_client
def test_the_client_makes_a_model_and_a_notebook_mounts_its_version(bench: Bench) -> None:
    """By version: the first one stays what it was; archives in a model are not unpacked."""
    place = bench.folder / "model"
    place.mkdir()
    told: dict[str, Any] = {"ownerSlug": "alice", "title": "My model", "slug": "my-model", "isPrivate": True}
    (place / "model-metadata.json").write_text(json.dumps({**told, "description": "", "subtitle": ""}))
    assert bench.cli("models", "create", "-p", place).returncode == 0
    own: dict[str, Any] = {"ownerSlug": "alice", "modelSlug": "my-model", "instanceSlug": "base"}
    own |= {"framework": "pyTorch", "licenseName": "Apache 2.0", "overview": "", "usage": ""}
    own |= {"trainingData": [], "fineTunable": False, "modelInstanceType": "Unspecified"}
    (place / "model-instance-metadata.json").write_text(json.dumps(own))
    (place / "weights.tar.gz").write_text("no archive, and nobody looks")
    made = bench.cli("models", "variations", "create", "-p", place)
    assert made.returncode == 0, made.stdout + made.stderr
    bench.until(lambda: bool(model("ListModelInstanceVersionFiles", bench, **WHICH).get("files")))
    cell = "import os, pathlib\nplace = pathlib.Path(os.environ['INPUT'], 'models/alice/my-model/pytorch/base/1')\n"
    cell += "print(sorted(path.name for path in place.iterdir()))"
    words = {"slug": KERNEL, "newTitle": "My inference", "language": "python", "kernelType": "notebook"}
    sources = [f"{MODEL}/1", f"{MODEL}/2"]
    pushed = bench.rpc("SaveKernel", text=json.dumps(notebook(cell)), modelDataSources=sources, **words)
    assert pushed["invalidModelSources"] == [f"{MODEL}/2"]
    bench.finished(1)
    owner, slug = KERNEL.split("/")
    assert "weights.tar.gz" in bench.rpc("ListKernelSessionOutput", userName=owner, kernelSlug=slug)["log"]
