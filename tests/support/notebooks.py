"""Notebooks for pushes to a local Kaggle, and what its server made of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from offline_kit.kaggle.client.api_types import NewNotebook, NotebookSources
from offline_kit.project.types import Kit
from tests.support.local_kaggle import Bench, notebook
from tests.support.pushing import ways
from tests.support.warm_python import client_python

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
    whole: dict[str, Any] = {"ref": REF, "title": "Plant inference", "sources": NotebookSources(), **more}
    return NewNotebook(text=json.dumps(notebook(*(cells or (WRITES,)))), **whole)


def versions(bench: Bench, ref: str = REF) -> list[int]:
    """Return the numbers of all versions that the server made."""
    owner, slug = ref.split("/")
    return sorted(map(int, bench.kaggle.kernels.store.key_names("kernels", owner, slug, "versions")))


def pushes(bench: Bench) -> int:
    """Return how many pushes the server answered."""
    return len(bench.traffic.ended_requests("/SaveKernel"))


def push_elsewhere(bench: Bench, wanted: NewNotebook) -> "subprocess.Popen[bytes]":
    """Start a push of a notebook without sources, and the wait for its run, in a process of its own."""
    code = (
        "import sys; from pathlib import Path\n"
        "from offline_kit.kaggle.push import notebook_runs as runs\n"
        "from offline_kit.kaggle.client.client import KaggleClient\n"
        "from offline_kit.kaggle.client.api_types import NewNotebook\n"
        "from offline_kit.kaggle.client.session import KaggleEndpoint\n"
        "from tests.support.pushing import EAGER, BRISK, PushSettings, access\n"
        "new = NewNotebook(ref=sys.argv[3], title=sys.argv[4], text=sys.argv[5])\n"
        "ways = PushSettings(state_folder=Path(sys.argv[2]), poll_policy=EAGER, retry_policy=BRISK)\n"
        "where = KaggleEndpoint(local=sys.argv[1], username='alice', key='key-of-alice')\n"
        "with KaggleClient(where, patience=BRISK, python=sys.argv[6]) as kaggle:\n"
        "    runs.push_and_follow(new, access(kaggle, ways))\n"
    )
    state = str(ways(bench).state_folder)
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            bench.server.url,
            state,
            wanted.ref,
            wanted.title,
            wanted.text,
            client_python(),
        ],
        cwd=Path(__file__).parents[2],
    )
