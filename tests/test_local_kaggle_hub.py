"""kagglehub's datasets and models, and the plain client's models, on the local Kaggle."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_kaggle_case import KERNEL, SLUG, Bench, needs_client, notebook, serving

needs_hub = pytest.mark.skipif(not importlib.util.find_spec("kagglehub"), reason="kagglehub is missing")
MODEL = "alice/my-model/pyTorch/base"
WHICH = {"ownerSlug": "alice", "modelSlug": "my-model", "framework": "MODEL_FRAMEWORK_PY_TORCH"}
WHICH |= {"instanceSlug": "base"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serving(tmp_path) as made:
        yield made


def hub(bench: Bench, code: str) -> list[str]:
    """Run code with kagglehub as alice; return what it printed behind GOT (it prints every request too)."""
    env = {**bench.environment(), "KAGGLE_API_ENVIRONMENT": "TEST"}
    words = [sys.executable, "-c", f"import kagglehub\n{code}"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("GOT ") for line in done.stdout.splitlines() if line.startswith("GOT ")]


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
