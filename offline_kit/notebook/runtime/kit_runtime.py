"""Find the kit among the inputs, check every byte of it, and bring the original names back.

This file is part of offline-kit and is pasted into the notebooks that it renders, so it needs nothing
but Python 3.10. Kaggle mounts a dataset under /kaggle/input/<slug> or /kaggle/input/datasets/<owner>/<slug>,
changes some file names and unpacks archives: hence a search by marker, and a check by size and SHA-256.
"""

import csv
import hashlib
import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from itertools import islice
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

MARKER = "offline-kit.json"
"""The manifest at the top of every part of a kit."""
DEPTH = 6
"""Maximum depth of a part below the inputs: models/<owner>/<model>/<framework>/<variation>/<version>."""
GROUPS = ("competitions", "datasets", "models", "notebooks")
"""Folders of the mount layout of 2026; in the older one every source is directly below the inputs."""
REHEARSED_COMPETITION = "offline-kit-rehearsal"
"""Slug under which a rehearsal mounts the data of a project that names no competition."""
READERS = 16
"""Kaggle's input disk is slow for one reader and fast for many."""

LONGEST_CELL = 2**31 - 1
"""Maximum characters of a CSV cell. Python's default is 131,072
(https://docs.python.org/3/library/csv.html#csv.field_size_limit); RLE masks and embeddings are longer. A
C long on Windows allows no more.
"""

Say = Callable[[str], object]


def read_csv_rows(lines: Iterable[str], delimiter: str = ",") -> Iterator[list[str]]:
    """Yield the rows of a CSV, cells of any length."""
    csv.field_size_limit(LONGEST_CELL)
    yield from csv.reader(lines, delimiter=delimiter)


def shorten_list(values: Iterable[object], limit: int = 5) -> str:
    """Join the first values for a message, and count the others."""
    texts = [str(value) for value in values]
    remainder = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + remainder


def in_scoring_run() -> bool:
    """Whether this is Kaggle's run on the hidden test set, in which checks report and never raise."""
    return bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))


FAILURE_KEY = "offline_kit_failure"
"""Begins the line of JSON that a failed notebook prints for programs."""


class KitError(RuntimeError):
    """A failure of the notebook: a stable code, what is wrong, the details, and how to fix it."""

    def __init__(
        self, what: str, details: Sequence[str] = (), *, hint: str, code: str = "notebook-failed"
    ) -> None:
        super().__init__("\n".join([what, *(f"  - {line}" for line in details), f"hint: {hint}"]))
        self.code, self.what, self.details, self.hint = code, what, tuple(details), hint

    def to_json(self) -> str:
        """Return the failure as one line of JSON."""
        fields = {"code": self.code, "what": self.what, "details": self.details, "hint": self.hint}
        return json.dumps({FAILURE_KEY: fields})

    def _render_traceback_(self) -> list[str]:
        # IPython calls this hook when an error ends a cell, and shows what it returns
        # (InteractiveShell.showtraceback, https://github.com/ipython/ipython/blob/main/IPython/core/interactiveshell.py).
        # A printed line is the one thing that an executed notebook and Kaggle's log both keep unchanged.
        sys.stdout.write(f"{self.to_json()}\n")
        shell = importlib.import_module("IPython").get_ipython()
        if shell is None:
            return traceback.format_exception(self)
        lines: list[str] = shell.InteractiveTB.structured_traceback(type(self), self, self.__traceback__)
        return lines


@dataclass(frozen=True)
class SessionFolders:
    """The folders of a session; tests and rehearsals may move them."""

    inputs: Path = Path("/kaggle/input")
    """Read-only: competitions, datasets, the kit."""
    working: Path = Path("/kaggle/working")
    """What Kaggle keeps of the run: the submission."""
    scratch: Path = Path("/tmp/offline-kit")  # noqa: S108 - a session has one user, and the path is in error texts
    """Links and installed packages."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "SessionFolders":
        """Return Kaggle's folders, or those that OFFLINE_KIT_INPUT, _WORKING and _SCRATCH name."""
        return cls(
            inputs=Path(environ.get("OFFLINE_KIT_INPUT") or cls.inputs),
            working=Path(environ.get("OFFLINE_KIT_WORKING") or cls.working),
            scratch=Path(environ.get("OFFLINE_KIT_SCRATCH") or cls.scratch),
        )


@dataclass(frozen=True)
class OpenKit:
    """A kit that was found, checked and restored."""

    folder: Path
    """Its files under their original names: packages/, code/, checkpoints/."""
    places: SessionFolders
    """The session's folders."""
    checkpoints: tuple[Path, ...] = ()
    """The checkpoints under their original names, sorted."""
    notes: tuple[str, ...] = ()
    """Irregularities that were handled."""


@dataclass(frozen=True)
class PartFile:
    """One file of the manifest, and the folder that its part is mounted at."""

    part: Path
    role: str
    original: str
    stored: str
    size: int
    sha256: str


def open_kit(expected: Mapping[str, str], folders: SessionFolders | None = None, say: Say = print) -> OpenKit:
    """Find, check and restore the parts (name: id); safe to call again.

    Raises KitError with what is mounted instead, or with every missing or damaged file.
    """
    folders = folders or SessionFolders.from_environment(os.environ)
    entries = [
        entry for folder in find_parts(expected, folders.inputs).values() for entry in read_part(folder)
    ]
    paths, notes = verify_files(entries)
    for note in notes:
        say(f"note: {note}")
    folder = restore_names(paths, folders.scratch / "kit")
    total = sum(entry.size for entry in entries)
    say(f"kit: {len(entries)} files, {total / 1e6:.1f} MB, every hash as expected")
    weights = sorted(entry.original for entry in entries if entry.role == "checkpoint")
    return OpenKit(folder, folders, tuple(folder / name for name in weights), tuple(notes))


def find_parts(expected: Mapping[str, str], inputs: Path) -> dict[str, Path]:
    """Return the folder of each expected part (name: id), found by its marker at any usual depth."""
    folders: dict[str, Path] = {}
    identities = []
    for folder in _find_marked_folders(inputs):
        part, identity = _read_label(folder)
        identities.append(f"'{folder}' holds part '{part}' of id {identity[:12]}")
        if expected.get(part) == identity:
            folders.setdefault(part, folder)
        if len(folders) == len(expected):
            return folders
    missing_parts = [f"part '{name}' of id {expected[name][:12]}" for name in expected if name not in folders]
    raise KitError(
        f"the kit of this notebook is not mounted: {', '.join(missing_parts)}",
        [*identities, *(f"mounted: {line}" for line in list_mounted(inputs))],
        code="kit-not-mounted",
        hint="a kit of another id means that the notebook ran before the new dataset version was ready: "
        "wait until Kaggle has processed it, then run or push again"
        if identities
        else "attach the kit's dataset to this notebook (Add Input), or push the kit again",
    )


def _find_marked_folders(inputs: Path) -> Iterator[Path]:
    # Level by level, so that large image folders are listed only if the kit lies nowhere above them.
    level = [inputs]
    for _ in range(DEPTH + 1):
        plain = []
        for folder in level:
            if (folder / MARKER).is_file():
                yield folder
            else:
                plain.append(folder)
        level = list(islice((child for folder in plain for child in _list_subfolders(folder)), 20000))


def _list_subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            subfolders = sorted(Path(entry.path) for entry in islice(entries, 5000) if entry.is_dir())
    except OSError:
        return []
    return [path for path in subfolders if path.name != "competitions"]


def _read_label(folder: Path) -> tuple[str, str]:
    try:
        manifest = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return str(manifest["part"]), str(manifest["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unreadable", "unreadable"


def list_mounted(inputs: Path) -> list[str]:
    """Return the sources that are mounted, for a person."""
    return [str(path) for path in mounted_sources(inputs).values()] or [f"nothing below '{inputs}'"]


def mounted_sources(inputs: Path) -> dict[str, Path]:
    """Return every mounted source by its slug, in both mount layouts."""
    mounted: dict[str, Path] = {}
    for path in sorted(inputs.glob("*")):
        if path.name not in GROUPS:
            mounted[path.name] = path
    for group in GROUPS:
        for path in sorted((inputs / group).glob("*" if group == "competitions" else "*/*")):
            mounted[path.name] = path
    return mounted


def find_folder(folder: Path, path: str) -> Path | None:
    """Return the folder at a path below another one, ignoring case; None if there is none.

    Kaggle mounts some sources in another case than their address has.
    """
    for name in path.split("/"):
        if (folder / name).is_dir():
            folder = folder / name
            continue
        matches = [child for child in _list_subfolders(folder) if child.name.lower() == name.lower()]
        if not matches:
            return None
        folder = matches[0]
    return folder


def find_competition(slug: str, inputs: Path) -> Path | None:
    """Return the folder of the competition's data; None if the notebook names no competition."""
    if not slug:
        rehearsed = (inputs / "competitions" / REHEARSED_COMPETITION, inputs / REHEARSED_COMPETITION)
        return next((folder for folder in rehearsed if folder.is_dir()), None)
    for folder in (inputs / "competitions" / slug, inputs / slug):
        if folder.is_dir():
            return folder
    raise KitError(
        f"the data of the competition '{slug}' is not mounted",
        [f"mounted: {line}" for line in list_mounted(inputs)],
        code="competition-not-mounted",
        hint="attach the competition to this notebook (Add Input), and accept its rules; "
        "for a rehearsal, set `competition_data` (--competition-data) to a local copy",
    )


def read_part(folder: Path) -> list[PartFile]:
    """Return the files that the manifest of a part promises."""
    manifest = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    if manifest.get("format") != 1:
        raise KitError(
            f"'{folder / MARKER}' has format {manifest.get('format')!r}, this notebook reads format 1",
            code="format-unsupported",
            hint="render the notebook again with the version of offline-kit that built the kit",
        )
    names = ("role", "original", "stored", "size", "sha256")
    entries = [PartFile(folder, **{name: line[name] for name in names}) for line in manifest["files"]]
    for entry in entries:
        for name in (entry.original, entry.stored):
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise KitError(
                    f"the manifest names a file outside the kit: '{name}'",
                    code="path-outside-kit",
                    hint="build the kit again",
                )
    return entries


def verify_files(entries: Sequence[PartFile]) -> tuple[dict[str, Path], list[str]]:
    """Return the path of each original name's bytes, and notes on files that Kaggle renamed.

    Raises KitError with every missing or damaged file, and what probably happened to it.
    """
    with ThreadPoolExecutor(READERS) as pool:
        intact = pool.map(lambda entry: _has_content(entry.part / entry.stored, entry), entries)
        paths = {
            entry.original: entry.part / entry.stored
            for entry, good in zip(entries, intact, strict=True)
            if good
        }
    notes, problems = [], []
    for entry in (entry for entry in entries if entry.original not in paths):
        same_bytes = _find_same_bytes(entry)
        if same_bytes:
            paths[entry.original] = same_bytes
            notes.append(
                f"'{entry.stored}' is stored as '{same_bytes.relative_to(entry.part)}' and is used from there"
            )
        else:
            problems.append(f"'{entry.stored}' {_explain_damage(entry)}")
    if problems:
        raise KitError(
            f"{len(problems)} of {len(entries)} files of the kit are missing or damaged",
            problems,
            code="kit-damaged",
            hint="push the kit again and wait until Kaggle has processed it",
        )
    return paths, notes


def _has_content(path: Path, entry: PartFile) -> bool:
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == entry.sha256


def _find_same_bytes(entry: PartFile) -> Path | None:
    candidates = (path for path in sorted(entry.part.rglob("*")) if path != entry.part / entry.stored)
    return next((path for path in candidates if _has_content(path, entry)), None)


def _explain_damage(entry: PartFile) -> str:
    path = entry.part / entry.stored
    unpacked = [path, path.with_suffix(""), path.with_suffix("").with_suffix("")]
    folder = next(
        (candidate for candidate in unpacked if candidate.is_dir() and candidate != path.parent), None
    )
    if folder:
        return f"was unpacked by Kaggle into the folder '{folder.relative_to(entry.part)}'"
    if not path.exists():
        return "is missing"
    size = path.stat().st_size
    if size != entry.size:
        return f"has {size} bytes instead of {entry.size}: cut short, decompressed, or once a link"
    return "has the right size but other bytes"


def restore_names(paths: Mapping[str, Path], folder: Path) -> Path:
    """Create a folder of links (copies if links are refused) with the original names; return it."""
    shutil.rmtree(folder, ignore_errors=True)
    for original, path in paths.items():
        target = folder / original
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.symlink_to(path.resolve())
        except OSError:
            shutil.copyfile(path, target)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def go_offline(environ: Any = os.environ) -> None:
    """Set the offline mode of libraries that use the network when they are imported or load a model."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "NO_ALBUMENTATIONS_UPDATE"):
        environ[name] = "1"
    environ["WANDB_MODE"] = "disabled"
    environ["PIP_NO_INDEX"] = environ["UV_OFFLINE"] = "1"


def pick_device(accelerator: str, say: Say = print) -> str:
    """Return "cuda" if an accelerator was requested and exists, else "cpu"."""
    if accelerator in ("", "none"):
        return "cpu"
    try:
        has_gpu = bool(importlib.import_module("torch").cuda.is_available())
    except ModuleNotFoundError:
        has_gpu = shutil.which("nvidia-smi") is not None  # not every model is torch's
    if has_gpu:
        return "cuda"
    say(f"warning: '{accelerator}' was asked for, but this session has no GPU: running on the CPU")
    return "cpu"


def load_object(name: str, kit: OpenKit) -> Any:
    """Return the object "package.module:Name" or "folder/file.py:Name".

    A file is found in the kit's code, and imported under its module name if it has one.
    """
    source, _, attribute = name.partition(":")
    module = (
        _import_file(kit.folder / "code" / source) if source.endswith(".py") else _import_module(source, name)
    )
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


def _import_module(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise KitError(
                f"'{name}' cannot be imported: there is no module '{error.name}'",
                code="module-not-found",
                hint="name the package in `packages` or `modules` of the configuration, then build again",
            ) from None
        raise


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise KitError(
            f"the kit has no file '{path}'",
            code="file-not-in-kit",
            hint="add it to `modules` of the configuration",
        )
    for root in map(Path, sys.path):
        if root in path.parents:  # so that its neighbours can import it too, and get the same module
            dotted = ".".join(path.relative_to(root).with_suffix("").parts)
            module = sys.modules.get(dotted) or importlib.import_module(dotted)
            if Path(str(getattr(module, "__file__", ""))).resolve() == path.resolve():
                return module
    return _execute_file(f"kit_code_{path.stem}", path)


def _execute_file(name: str, path: Path) -> Any:
    # For a file that no folder of sys.path leads to, or whose name another module has taken.
    loader = SourceFileLoader(name, str(path))
    module = ModuleType(name)
    module.__file__, module.__loader__ = str(path), loader
    sys.modules[name] = module  # dataclasses and pickles look their module up while it runs
    loader.exec_module(module)
    return module
