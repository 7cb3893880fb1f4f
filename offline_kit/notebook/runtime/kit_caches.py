"""Point the libraries at the download caches in the kit, so that they need no network.

This file is part of offline-kit and is pasted into the notebooks whose kit has a folder `caches`: copies of
~/.cache/torch, ~/.cache/huggingface, ~/nltk_data and the like. It runs before those libraries are imported.
"""

import os
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import OpenKit, Say

CACHES = {
    "torch": "TORCH_HOME",
    "huggingface": "HF_HOME",
    "sentence_transformers": "SENTENCE_TRANSFORMERS_HOME",
    "nltk_data": "NLTK_DATA",
    "keras": "KERAS_HOME",
    "tfhub": "TFHUB_CACHE_DIR",
    "gensim-data": "GENSIM_DATA_DIR",
}
"""Folders below `caches`, and the variables that the libraries read."""


def use_caches(kit: OpenKit, environ: Any = os.environ, say: Say = print) -> None:
    """Set the environment variable of each cache in the kit; safe to call again."""
    folder = kit.folder / "checkpoints" / "preprocessing" / "caches"
    for name, variable in CACHES.items():
        if (folder / name).is_dir():
            environ[variable] = str(folder / name)
            say(f"cache: {variable} = {folder / name}")
