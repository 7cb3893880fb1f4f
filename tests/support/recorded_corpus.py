"""Notebooks after the kinds of public ones, and the internet that they need, on loopback.

A case is a notebook of tests/end_to_end/recorded/notebooks, whose cells "# %%" parts, in a project with its inputs.
"""

import base64
import hashlib
import io
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import wave
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from offline_kit.rehearsal.gateway import write_standin
from tests.support.hub_client import hub
from tests.support.internet import Internet, WebAnswer, WebHost, WebRequest
from tests.support.local_index import LocalIndex, make_sdist, make_wheel
from tests.support.local_kaggle import Bench, serving
from tests.support.web_hosts import (
    FileHost,
    GitHost,
    GoogleDrive,
    HuggingFaceHub,
    PackageIndex,
    relay_request,
)

FOLDER = Path(__file__).parents[1] / "end_to_end" / "recorded"
COMPETITION = "tiny-competition"
HUB_TOKEN = "hf_" + "0123456789abcdefghij"
TEXTS = ("a small model", "the large model", "words of a sentence", "nothing known")
_TRAIN = """
import sys
from pathlib import Path
import joblib, numpy, torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.ensemble import GradientBoostingRegressor

folder = Path(sys.argv[1])
torch.manual_seed(3)
random = numpy.random.default_rng(1)
save_file({f"stem.{name}": value for name, value in torch.nn.Linear(6, 4).state_dict().items()}, folder / "vit.safetensors")
save_file({"embeddings": torch.rand(8, 3), "head": torch.rand(3)}, folder / "text.safetensors")
torch.save(torch.nn.Conv2d(3, 2, 3, padding=1).state_dict(), folder / "resnet34.pth")
torch.save(torch.nn.Conv2d(2, 1, 1).state_dict(), folder / "head.pth")
for number in range(2):
    head = torch.nn.Linear(4, 1).state_dict()
    torch.save({f"head.{name}": value for name, value in head.items()}, folder / f"fold{number}.pth")
for number in range(3):
    x = random.random((40, 2)) * 5
    booster = GradientBoostingRegressor(n_estimators=5, random_state=number).fit(x, x[:, 0])
    joblib.dump(booster, folder / f"fold{number}.joblib")
for number in range(1, 5):
    Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=numpy.uint8)).save(folder / f"{number}.png")
"""
"""Trains the models of the corpus, and paints its pictures."""


@dataclass(frozen=True, kw_only=True)
class RecordedCase:
    """A notebook of the corpus, and what lies in its project."""

    name: str
    add_inputs: Callable[[Path, Path], None] = lambda _inputs, _trained: None
    """Writes attached data below the project's folder of inputs; the second folder has what was trained."""
    datasets: tuple[str, ...] = ()  # attached datasets, as kernel-metadata.json has them
    secrets: Mapping[str, str] = field(default_factory=dict)
    edited: bool = False  # some of its paths are no mount of a replay


@dataclass(frozen=True, kw_only=True)
class CorpusWorld:
    """The running internet of the corpus, and the folder of what was trained."""

    internet: Internet
    kaggle: Bench
    trained: Path

    def environment(self, case: RecordedCase) -> dict[str, str | None]:
        """Return the variables of a command that records a case; None removes one."""
        return {**self.internet.environment(), **INDEX_SETTINGS, **case.secrets}


INDEX_SETTINGS = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": None,
    "PIP_FIND_LINKS": None,
    "PIP_EXTRA_INDEX_URL": None,
}


def _add_pictures(names: tuple[str, ...], dataset: str) -> Callable[[Path, Path], None]:
    def add(inputs: Path, trained: Path) -> None:
        (inputs / COMPETITION / "test").mkdir()
        (inputs / dataset).mkdir()
        for number in range(1, 5):
            shutil.copy(trained / f"{number}.png", inputs / COMPETITION / "test")
        for name in names:
            shutil.copy(trained / name, inputs / dataset)

    return add


def _add_boosters(inputs: Path, trained: Path) -> None:
    for number in range(3):
        folder = inputs / "booster-folds" / f"seed{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained / f"fold{number}.joblib", folder)


def _add_clips(inputs: Path, trained: Path) -> None:
    (inputs / COMPETITION / "clips").mkdir()
    for number in range(1, 5):
        with wave.open(str(inputs / COMPETITION / "clips" / f"{number}.wav"), "wb") as clip:
            clip.setparams((1, 2, 8000, 0, "NONE", ""))
            tones = (int(9000 * math.sin(number * step / 7)) for step in range(2000))
            clip.writeframes(b"".join(struct.pack("<h", tone) for tone in tones))


def _add_wheels(inputs: Path, trained: Path) -> None:
    make_wheel(inputs / "own-wheels", "tiny-aug", "1.0", files=_MODULES["tiny-aug"])
    make_wheel(inputs / "own-wheels", "tiny-words", "0.9", files=_MODULES["tiny-words"])


def _add_notes(inputs: Path, trained: Path) -> None:
    files = {
        "my-models/info (10).txt": "0.25\n",
        "my-models/fold0.txt": "1.5\n",
        "my-models/fold1.txt": "2.5\n",
        "my-code/src/utils.py": "def helper(x, values):\n    return x * sum(values)\n",
    }
    for name, content in files.items():
        (inputs / name).parent.mkdir(parents=True, exist_ok=True)
        (inputs / name).write_text(content)


def _add_server(inputs: Path, trained: Path) -> None:
    write_standin(inputs / COMPETITION, {"submission": "submission.csv", "batches": "pandas"}, name="Tiny")


CASES = (
    RecordedCase(
        name="image_timm",
        add_inputs=_add_pictures(("fold0.pth", "fold1.pth"), "shape-weights"),
        datasets=("me/shape-weights",),
    ),
    RecordedCase(name="tabular_boosters", add_inputs=_add_boosters, edited=True),
    RecordedCase(name="transformers_id", secrets={"HF_TOKEN": HUB_TOKEN}),
    RecordedCase(
        name="smp_encoder",
        add_inputs=_add_pictures(("head.pth",), "unet-head"),
        datasets=("me/unet-head",),
    ),
    RecordedCase(name="keras_presets"),
    RecordedCase(name="inference_server", add_inputs=_add_server),
    RecordedCase(name="audio_clips", add_inputs=_add_clips),
    RecordedCase(name="own_wheels", add_inputs=_add_wheels, datasets=("me/own-wheels",), edited=True),
    RecordedCase(name="written_script"),
    RecordedCase(name="git_clone"),
    RecordedCase(name="downloads"),
    RecordedCase(name="pip_helper"),
    RecordedCase(name="joined_paths", add_inputs=_add_notes, edited=True),
    RecordedCase(name="colab_cell", edited=True),
    RecordedCase(name="other_indexes"),
    RecordedCase(name="kaggle_client", secrets={"KAGGLE_USERNAME": "alice", "KAGGLE_KEY": "key-of-alice"}),
    RecordedCase(name="language_model"),
)


def make_case_project(case: RecordedCase, folder: Path, trained: Path) -> Path:
    """Write a project with the case's notebook, its metadata and its inputs."""
    data = folder / "input" / COMPETITION
    data.mkdir(parents=True)
    rows = list(enumerate(TEXTS, 1))
    (data / "test.csv").write_text("id,x,text\n" + "".join(f"{n},{n}.5,{text}\n" for n, text in rows))
    (data / "sample_submission.csv").write_text("id,target\n" + "".join(f"{n},0\n" for n, _ in rows))
    case.add_inputs(folder / "input", trained)
    metadata = {
        "id": f"me/{case.name.replace('_', '-')}",
        "title": case.name.replace("_", " "),
        "code_file": "inference.ipynb",
        "enable_internet": "true",
        "competition_sources": [COMPETITION],
        "dataset_sources": list(case.datasets),
    }
    (folder / "kernel-metadata.json").write_text(json.dumps(metadata))
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    whole = {"cells": read_case_cells(case.name), "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    (folder / "inference.ipynb").write_text(json.dumps(whole, indent=1))
    return folder


def read_case_cells(name: str) -> list[dict[str, Any]]:
    """Return the cells of a notebook of the corpus."""
    source = (FOLDER / "notebooks" / f"{name}.ipy").read_text(encoding="utf-8")
    cells = []
    for number, part in enumerate(re.split(r"^# %%(?=\n| \[)", source, flags=re.MULTILINE)[1:], 1):
        is_text = part.startswith(" [markdown]\n")
        lines = part.partition("\n")[2].strip("\n").splitlines(keepends=True)
        if is_text:
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        cell: dict[str, Any] = {"id": f"c{number}", "metadata": {}, "source": lines}
        more: dict[str, Any] = {"cell_type": "code", "outputs": [], "execution_count": None}
        cells.append(cell | ({"cell_type": "markdown"} if is_text else more))
    return cells


_MODULES = {
    "tiny-aug": {"tiny_aug/__init__.py": "def flip(x):\n    return -x\n"},
    "tiny-words": {"tiny_words/__init__.py": "def score(text):\n    return len(text.split()) / 2\n"},
    "tiny-text": {"tiny_text/__init__.py": "def clean(text):\n    return text.removeprefix('the ')\n"},
    "tiny-sdist": {"tiny_sdist/__init__.py": "OFFSET = 100\n"},
    "tiny-scatter": {"tiny_scatter/__init__.py": "def add(values, more):\n    return values + more\n"},
    "tiny-torchvision": {"tiny_torchvision/__init__.py": "__version__ = '0.9+cpu'\n"},
    "tiny-model-sm": {"tiny_model_sm/__init__.py": "BIAS = 7\n"},
}
_CLONED = {
    "lib/coolaug.py": "def flip(x):\n    return -x\n",
    "conf.json": '{"factor": 5}',
    "requirements.txt": "tiny-text\n",
}
_INSTALLED = {
    "cool_lib/__init__.py": "VERSION = 1000\n",
    "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    '[project]\nname = "cool-lib"\nversion = "1.0"\n[tool.setuptools]\npackages = ["cool_lib"]\n',
}
_RELEASE = "/someone/models/releases/download/v3"


@contextmanager
def serve_corpus(folder: Path) -> Iterator[CorpusWorld]:
    """Serve everything that the notebooks of the corpus fetch."""
    trained = folder / "trained"
    trained.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", _TRAIN, str(trained)], check=True)
    with ExitStack() as stack:
        index = stack.enter_context(LocalIndex())
        kaggle = stack.enter_context(serving(folder / "kaggle"))
        _publish_on_kaggle(kaggle, folder)
        encoder = (trained / "resnet34.pth").read_bytes()
        digest = hashlib.sha256(encoder).hexdigest()[:8]
        _publish_packages(index, folder / "wheels", digest)
        hosts = _make_hub(trained).hosts() | _make_git_host(folder).hosts() | _make_drive().hosts()
        hosts |= _make_file_hosts(folder / "wheels", {f"/models/resnet34-{digest}.pth": encoder})
        hosts |= {"pypi.org": PackageIndex(index=index).answer} | _make_kaggle_hosts(kaggle)
        internet = stack.enter_context(Internet(folder, hosts))
        yield CorpusWorld(internet=internet, kaggle=kaggle, trained=trained)


def _publish_packages(index: LocalIndex, folder: Path, digest: str) -> None:
    requires = {"tiny-words": ["tiny-text"]}
    for name in ("tiny-aug", "tiny-words", "tiny-text"):
        index.add(make_wheel(folder, name, "1.0", files=_MODULES[name], requires=requires.get(name, ())))
    index.add(make_sdist(folder, "tiny-sdist", "1.0", files=_MODULES["tiny-sdist"]))
    for package in sorted((FOLDER / "packages").iterdir()):
        files = {
            path.relative_to(package).as_posix(): path.read_text().replace("{sha8}", digest)
            for path in package.rglob("*.py")
        }
        index.add(make_wheel(folder, package.name, "1.0", files=files))


def _make_hub(trained: Path) -> HuggingFaceHub:
    words = " ".join(sorted({word for line in TEXTS for word in line.split()})[:8]).replace(" ", "\n")
    repositories = {
        "timm/tiny_vit_5m.in1k": {
            "config.json": b"{}",
            "model.safetensors": (trained / "vit.safetensors").read_bytes(),
        },
        "tiny-org/private-deberta-small": {
            "config.json": b'{"scale": 3}',
            "vocab.txt": words.encode(),
            "model.safetensors": (trained / "text.safetensors").read_bytes(),
        },
        "tiny-org/preset": {"config.json": b'{"scale": 0.5}', "README.md": b"A preset"},
        "tiny-org/qwen-tiny": {"config.json": b'{"answer": 4}', "model.safetensors": bytes(3000)},
        "tiny-org/tokens": {"tokens.json": b'{"stop": "7"}'},
    }
    return HuggingFaceHub(repositories=repositories, token=HUB_TOKEN)


def _make_git_host(folder: Path) -> GitHost:
    model = make_wheel(folder / "wheels", "tiny-model-sm", "3.0", files=_MODULES["tiny-model-sm"])
    releases = {
        f"{_RELEASE}/bias.json": b'{"value": 2}',
        f"{_RELEASE}/slope.json": b'{"value": 3}',
        f"{_RELEASE}/large.bin": bytes(range(256)) * 5000,
        f"{_RELEASE}/{model.name}": model.read_bytes(),
    }
    raw = {
        f"/someone/configs/main/{name}.json": json.dumps({"scale": scale}).encode()
        for name, scale in (("base", 1), ("large", 9))
    }
    host = GitHost(folder=folder / "git", releases=releases, raw=raw)
    host.make_repository("someone/cool-aug", _CLONED)
    host.make_repository("someone/cool-lib", _INSTALLED, tag="v1")
    return host


def _make_drive() -> GoogleDrive:
    return GoogleDrive(
        files={
            "1TinyDriveFile_0123456789abcdefghi": ("drive.json", b'{"value": 11}'),
            "1TinyDriveFile_other_56789abcdefgh": ("other.json", b'{"value": 13}'),
        }
    )


def _make_file_hosts(folder: Path, models: Mapping[str, bytes]) -> dict[str, WebHost]:
    scatter = make_wheel(folder, "tiny-scatter", "2.0", files=_MODULES["tiny-scatter"]).read_bytes()
    vision = make_wheel(folder, "tiny-torchvision", "0.9+cpu", files=_MODULES["tiny-torchvision"])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("zipped.json", '{"value": 17}')
    weights = "".join(f"{band},{band / 8}\n" for band in range(8))
    vision_link = f'<a href="/whl/cpu/{vision.name.replace("+", "%2B")}">{vision.name}</a>'
    return {
        "zenodo.org": FileHost(
            files={
                "/record/3987831/files/labels.csv": f"band,weight\n{weights}".encode(),
                "/record/1000001/files/weights.zip": archive.getvalue(),
            }
        ).answer,
        "data.pyg.org": FileHost(
            files={
                "/whl/torch-2.6.0+cpu.html": b'<a href="tiny_scatter-2.0-py3-none-any.whl">tiny_scatter</a>',
                "/whl/tiny_scatter-2.0-py3-none-any.whl": scatter,
            }
        ).answer,
        "download.pytorch.org": FileHost(
            files={
                "/whl/cpu/tiny-torchvision/": vision_link.encode(),
                f"/whl/cpu/{vision.name}": vision.read_bytes(),
                **models,
            }
        ).answer,
    }


def _publish_on_kaggle(kaggle: Bench, folder: Path) -> None:
    words = {"ownerSlug": "alice", "slug": "tiny-tables", "title": "Tiny tables", "licenseName": "CC0-1.0"}
    kaggle.rpc("CreateDataset", files=kaggle.upload({"factor.json": b'{"factor": 4}'}), **words)
    kaggle.ready("alice/tiny-tables")
    preset = folder / "preset"
    preset.mkdir()
    (preset / "config.json").write_text('{"scale": 2}')
    hub(kaggle, f"kagglehub.model_upload('alice/tiny-bert/keras/tiny_bert_en', {str(preset)!r}, 'MIT')")


def _make_kaggle_hosts(kaggle: Bench) -> dict[str, WebHost]:
    """Return Kaggle's hosts, which the local Kaggle answers for; its files lie on another one, as the real ones."""
    storage, login = "storage.googleapis.com", base64.b64encode(b"alice:key-of-alice").decode()
    vocabulary = json.dumps({"model": 1.5, "large": 0.5, "words": 0.25}).encode()
    own_files = FileHost(files={"/tensorflow/keras-nlp/vocabulary.json": vocabulary})

    def answer_api(request: WebRequest) -> WebAnswer:
        headers = {"authorization": f"Basic {login}", **request.headers}
        request = replace(request, headers=headers, target=f"/api{request.target}")
        answer = relay_request(request, kaggle.server.url)
        moved = {
            name: value.replace(kaggle.server.url, f"https://{storage}")
            for name, value in answer.headers.items()
        }
        return replace(answer, headers=moved)

    def answer_storage(request: WebRequest) -> WebAnswer:
        answer = own_files.answer(request)
        return relay_request(request, kaggle.server.url) if answer.status == 404 else answer

    return {"api.kaggle.com": answer_api, storage: answer_storage}
