"""What the project's own code gets, and how the notebook finds it: functions, classes, preprocessing files."""

import difflib
import importlib
import importlib.util
import inspect
import json
import math
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from .kit_deadline import Deadline
from .kit_runtime import KitError, OpenKit

PICKLES = (".pkl", ".pickle", ".p", ".joblib", ".jbl", ".sav")


@dataclass(frozen=True)
class Context:
    """The argument of a user's `function`."""

    input: Path | None  # the competition's data; None when no competition is attached
    inputs: dict[str, Path]  # every attached source, by its slug
    kit: Path  # the restored kit
    checkpoints: tuple[Path, ...]  # the checkpoints, under their original names
    working: Path  # where output files go
    submission: Path  # the file to submit
    params: dict[str, Any]  # [tool.offline-kit.notebook.params]
    device: str  # "cpu" or "cuda"
    deadline: Deadline | None = None

    @property
    def seconds_left(self) -> float:
        """Seconds until the `time_reserve` of the configuration begins; infinite without one."""
        return self.deadline.seconds_left if self.deadline else math.inf


def load_object(name: str, kit: OpenKit) -> Any:
    """Return the object "package.module:Name" or "folder/file.py:Name"; the file is one of the kit's code."""
    source, _, attribute = name.partition(":")
    try:
        if source.endswith(".py"):
            module = _import_file(kit.folder / "code" / source)
        else:
            module = importlib.import_module(source)
    except ModuleNotFoundError as error:
        if not error.name or not f"{source}.".startswith(f"{error.name}."):
            raise  # the module exists, and lacks another one
        raise KitError(
            f"'{name}' cannot be imported: there is no module '{error.name}'",
            code="module-not-found",
            hint="name the package in `packages` or `modules` of the configuration, then build again",
        ) from None
    try:
        for step in attribute.split("."):
            module = getattr(module, step)
    except AttributeError:
        public = sorted(word for word in vars(module) if not word.startswith("_"))
        raise KitError(
            f"'{source}' has no '{attribute}'",
            [f"it has: {', '.join(public[:30])}"],
            code="object-not-found",
            hint=f"correct '{name}'",
        ) from None
    return module


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise KitError(f"the kit has no file '{path}'", code="file-not-in-kit")
    for root in map(Path, sys.path):
        if root in path.parents:  # so that its neighbours can import it too, and get the same module
            dotted = ".".join(path.relative_to(root).with_suffix("").parts)
            module = sys.modules.get(dotted) or importlib.import_module(dotted)
            if Path(str(getattr(module, "__file__", ""))).resolve() == path.resolve():
                return module
    # No folder of sys.path leads to the file, or another module has taken its name.
    spec: Any = importlib.util.spec_from_file_location(f"kit_code_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and pickles look their module up while it runs
    spec.loader.exec_module(module)
    return module


def load_hook(reference: str, kit: OpenKit, **offered: Any) -> Any:
    """Return a user's function bound to the offered values that it has parameters for; None for no reference."""
    if not reference:
        return None
    # What it has no parameter for is not offered, so that most functions need one parameter alone.
    function = load_object(reference, kit)
    names = inspect.signature(function).parameters
    return partial(function, **{name: value for name, value in offered.items() if name in names})


class AliasedMain(ModuleType):
    """A stand-in for `__main__` with the aliases first and the notebook's names after them."""

    def __init__(self, notebook: ModuleType, aliases: Mapping[str, Any]) -> None:
        super().__init__("__main__", notebook.__doc__)
        self.__dict__.update(aliases)
        self.notebook = notebook

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["notebook"], name)


def alias_main(path: str, names: Sequence[str], kit: OpenKit) -> None:
    """Import a file of the kit's code and make its names available in `__main__`; safe to call again.

    A pickle refers to the classes of the script that wrote it as `__main__`, which here is the notebook
    (https://docs.python.org/3/library/pickle.html). The script is imported under its own name, so that its
    `if __name__ == "__main__"` block does not run. Raises KitError with the line that fails.
    """
    try:
        aliases = {name: load_object(f"{path}:{name}", kit) for name in names}
    except (KitError, ImportError):
        raise
    except (Exception, SystemExit) as error:
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(path)
        ]
        line = f" in line {frames[-1].lineno}, `{frames[-1].line}`" if frames else ""
        raise KitError(
            f"'{path}' (`main_from`) was run to find {', '.join(map(repr, names))}, and its own top level fails"
            f"{line}: {type(error).__name__}: {error}",
            code="main-module-failed",
        ) from error
    main = sys.modules["__main__"]
    notebook = main.notebook if isinstance(main, AliasedMain) else main
    sys.modules["__main__"] = sys.modules["__mp_main__"] = AliasedMain(notebook, aliases)
    print(f"available in __main__, from {path}: {', '.join(names)}")


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
    # joblib reads plain pickles too, and what it compressed.
    except ModuleNotFoundError as error:
        if error.name != "joblib":
            raise KitError(
                f"'{path.name}' needs '{error.name}', which cannot be imported",
                code="module-not-found",
                hint="add the package to the requirements, and build the kit again",
            ) from error
    with path.open("rb") as stream:
        return importlib.import_module("pickle").load(stream)


def resolve_labels(labels: Any, preprocessing: Preprocessing) -> Any:
    """Return the names of the model's outputs: as they are, or from the preprocessing file that is named."""
    return preprocessing[labels] if isinstance(labels, str) else labels
