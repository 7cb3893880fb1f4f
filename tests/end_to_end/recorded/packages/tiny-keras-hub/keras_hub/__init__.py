"""A small keras_hub: presets of Kaggle and of Hugging Face, and files that keras itself fetches."""

import json
import os
import urllib.request
from pathlib import Path

_PRESETS = {"tiny_bert_en": "kaggle://alice/tiny-bert/keras/tiny_bert_en/1"}
_VOCABULARY = "https://storage.googleapis.com/tensorflow/keras-nlp/vocabulary.json"


def get_file(name: str, origin: str) -> Path:
    """Return a file of keras's cache, fetched at first, as keras.utils.get_file does."""
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        urllib.request.urlretrieve(origin, folder / name)
    return folder / name


class TextClassifier:
    """Words have weights."""

    def __init__(self, weights: dict[str, float], scale: float) -> None:
        self.weights, self.scale = weights, scale

    @classmethod
    def from_preset(cls, preset: str) -> "TextClassifier":
        """Fetch a preset: a name of keras's own, kaggle://HANDLE or hf://REPOSITORY."""
        scheme, _, handle = _PRESETS.get(preset, preset).partition("://")
        if scheme == "kaggle":
            import kagglehub

            folder = Path(kagglehub.model_download(handle))
        else:
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(handle, allow_patterns="*.json"))
        weights = json.loads(get_file("vocabulary.json", _VOCABULARY).read_text())
        return cls(weights, json.loads((folder / "config.json").read_text())["scale"])

    def predict(self, texts: list[str]) -> list[float]:
        """Return a score for each text."""
        return [self.scale * sum(self.weights.get(word, 0.0) for word in text.split()) for text in texts]
