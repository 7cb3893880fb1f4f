"""Notebooks for pushes to a local Kaggle, and what its server made of them."""

import json
from typing import Any

from local_kaggle_case import Bench, notebook

from offline_kit.kaggle_gateway.nouns import NewNotebook, Sources
from offline_kit.model import Kit

REF = "alice/plant-inference"
WRITES = "open('submission.csv', 'w').write('id,label\\n1,0.5\\n')"
METADATA: dict[str, Any] = {
    "id": "plant-inference",
    "title": "Plant inference",
    "code_file": "inference.ipynb",
    "language": "python",
    "kernel_type": "notebook",
    "is_private": True,
    "enable_gpu": False,
    "enable_tpu": False,
    "enable_internet": False,
    "dataset_sources": ["plant-kit"],
    "competition_sources": [],
    "kernel_sources": [],
    "model_sources": [],
}


def written(kit: Kit, *cells: str, **metadata: Any) -> Kit:
    """Write a notebook into a kit, as `build` does."""
    folder = kit.folder / "notebook"
    folder.mkdir(exist_ok=True)
    (folder / "inference.ipynb").write_text(json.dumps(notebook(*cells)))
    (folder / "kernel-metadata.json").write_text(json.dumps({**METADATA, **metadata}))
    return kit


def new(*cells: str, **more: Any) -> NewNotebook:
    """Return a notebook that needs no input."""
    whole: dict[str, Any] = {"ref": REF, "title": "Plant inference", "sources": Sources(), **more}
    return NewNotebook(text=json.dumps(notebook(*(cells or (WRITES,)))), **whole)


def versions(bench: Bench, ref: str = REF) -> list[int]:
    """Return the numbers of all versions that the server made."""
    owner, slug = ref.split("/")
    return sorted(map(int, bench.kaggle.kernels.store.names("kernels", owner, slug, "versions")))


def pushes(bench: Bench) -> int:
    """Return how many pushes the server answered."""
    return len(bench.server.traffic.ended("/SaveKernel"))
