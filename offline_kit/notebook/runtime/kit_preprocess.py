"""Preprocessing files of the kit, loaded by name: scalers, encoders, label maps.

This file is part of offline-kit and is pasted into the notebooks that it renders.
"""

import difflib
import importlib
import inspect
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import KitError, OpenKit, load_object

PICKLES = (".pkl", ".pickle", ".p", ".joblib", ".jbl", ".sav")


class Preprocessing(Mapping[str, Any]):
    """The files by their names: `preprocessing["scaler.joblib"]` is the scaler itself, loaded once.

    A folder's name gives its path (tokenizers are loaded from folders), as do files of unknown kinds.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = load_preprocessing_file(self.path(name))
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def path(self, name: str) -> Path:
        """Return the path of a file or folder; raises KitError with the existing names."""
        if name in self._files:
            return self._files[name]
        for file_name, path in self._files.items():
            if file_name.startswith(f"{name}/"):
                return path.parents[file_name.removeprefix(f"{name}/").count("/")]
        like = [file_name for file_name in self._files if file_name.endswith(f"/{name}")]
        like = like or [file_name for file_name in self._files if Path(file_name).name == Path(name).name]
        like = like or difflib.get_close_matches(name, self._files, n=3)
        add = "add it to `preprocessing` of the configuration, and build the kit again"
        raise KitError(
            f"the kit has no preprocessing file '{name}'",
            [f"it has: {', '.join(self._files) or 'none'}"],
            code="preprocessing-file-not-found",
            hint=f"did you mean {' or '.join(map(repr, like))}? Else {add}" if like else add,
        )


def load_preprocessing_file(path: Path) -> Any:
    """Load a file by its kind: JSON, pickle and joblib, NumPy, CSV, lines of text; a path for any other."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if suffix in PICKLES:
        return _load_pickle(path)
    if suffix in (".npy", ".npz"):
        return importlib.import_module("numpy").load(path)
    if suffix in (".csv", ".tsv"):
        return importlib.import_module("pandas").read_csv(path, sep="," if suffix == ".csv" else "\t")
    if suffix == ".txt":
        return path.read_text(encoding="utf-8").splitlines()
    if suffix in (".pt", ".pth"):
        return importlib.import_module("torch").load(path, map_location="cpu", weights_only=True)
    return path


def _load_pickle(path: Path) -> Any:
    try:
        return importlib.import_module("joblib").load(path)
    except ModuleNotFoundError as error:
        if error.name != "joblib":
            raise KitError(
                f"'{path.name}' needs '{error.name}', which cannot be imported",
                code="module-not-found",
                hint="add the package to the requirements, and build the kit again",
            ) from error
    with path.open("rb") as stream:
        return importlib.import_module("pickle").load(stream)


def load_hook(reference: str, kit: OpenKit, **offered: Any) -> Any:
    """Return a user's function bound to the offered values that it has parameters for; None for no reference."""
    if not reference:
        return None
    function = load_object(reference, kit)
    names = inspect.signature(function).parameters
    return partial(function, **{name: value for name, value in offered.items() if name in names})


def resolve_labels(labels: Any, preprocessing: Preprocessing) -> Any:
    """Return the names of the model's outputs: as they are, or from the preprocessing file that is named."""
    return preprocessing[labels] if isinstance(labels, str) else labels
