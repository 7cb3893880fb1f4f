"""Find the kit among the inputs, check every byte of it, and bring the original names back.

Kaggle mounts a dataset under /kaggle/input/<slug> or /kaggle/input/datasets/<owner>/<slug>, changes some file
names and unpacks archives: hence a search by marker, and a check by size and SHA-256.
"""

import csv
import functools
import importlib
import json
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from .kit_capture import hash_file

MARKER = "offline-kit.json"  # the manifest at the top of every part of a kit
LAYOUTS = ("*", "datasets/*/*", "notebooks/*/*", "models/*/*/*/*/*", "*/*/*/*")
"""Where Kaggle mounts sources below the inputs; models have a framework, a variation and a version."""
GROUPS = ("competitions", "datasets", "models", "notebooks")
"""Folders of the mount layout of 2026; in the older one every source is directly below the inputs."""
REHEARSED_COMPETITION = "offline-kit-rehearsal"
"""Slug under which a rehearsal mounts the data of a project that names no competition."""
READERS = 16  # Kaggle's input disk is slow for one reader and fast for many
CACHES = {
    "torch": "TORCH_HOME",
    "huggingface": "HF_HOME",
    "sentence_transformers": "SENTENCE_TRANSFORMERS_HOME",
    "nltk_data": "NLTK_DATA",
    "keras": "KERAS_HOME",
    "tfhub": "TFHUB_CACHE_DIR",
    "gensim-data": "GENSIM_DATA_DIR",
    "kagglehub": "KAGGLEHUB_CACHE",
    "xdg": "XDG_CACHE_HOME",
}
"""Folders of copies of ~/.cache/torch and the like, and the variables that the libraries read."""


print_once = functools.cache(print)  # prints a text the first time only: batches and models share most notes


def read_csv_rows(lines: Iterable[str], delimiter: str = ",") -> Iterator[list[str]]:
    """Yield the rows of a CSV, cells of any length."""
    # The default limit of a cell is 131,072 characters (https://docs.python.org/3/library/csv.html#csv.field_size_limit);
    # RLE masks and embeddings are longer. A C long on Windows allows no more than this.
    csv.field_size_limit(2**31 - 1)
    yield from csv.reader(lines, delimiter=delimiter)


def shorten_list(values: Iterable[object], limit: int = 5) -> str:
    """Join the first values for a message, and count the others."""
    texts = [str(value) for value in values]
    remainder = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + remainder


def in_scoring_run() -> bool:
    """Whether this is Kaggle's run on the hidden test set, in which checks report and never raise."""
    return bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))


HINTS = {
    "batch-not-tensor": "convert them to tensors in your own `transform`, as in training; for pictures it is called with the "
    "path of each",
    "checkpoint-unreadable": "save it again with this version of torch, and build the kit again",
    "classes-differ-between-models": "put models of the same classes into one ensemble",
    "columns-differ-between-models": "put models with the same outputs into one ensemble",
    "columns-do-not-fit": 'set `postprocess` to "argmax" or "labels:0.5" for names in one column, or to your own function',
    "columns-not-numeric": "encode them as in training in your own `transform`: transform(batch) -> table or tensor",
    "competition-not-mounted": "attach the competition to this notebook (Add Input), and accept its rules; for a rehearsal, set "
    "`competition_data` (--competition-data) to a local copy",
    "file-not-in-kit": "add it to `modules` of the configuration",
    "format-unsupported": "render the notebook again with the version of offline-kit that built the kit",
    "gateway-failed": "check the test set; where it looks for it can be set with `data_paths`, names below the "
    "competition's folder, in [tool.offline-kit.notebook.params]",
    "id-column-in-transform": "leave it out of `transform`, or give the function a parameter `ids`, which gets the ids",
    "image-shapes-differ": "let it resize them to one size, or set `batch_size = 1`",
    "images-not-found": 'name the folder: `test = "folder"` in [tool.offline-kit.notebook.params]; where an id is no file, '
    "write a `function`",
    "inference-server-not-found": "compare with the competition's demo notebook, or use the template `function`",
    "install-failed": "build the kit again, or set OFFLINE_KIT_INSTALLER to the other of 'uv' and 'pip'",
    "installer-not-found": "install uv or pip, or ask for the other",
    "kit-damaged": "push the kit again and wait until Kaggle has processed it; if it is still damaged then, use --resend",
    "kit-not-mounted": "attach the kit's dataset to this notebook (Add Input); if it is attached, its new version was not "
    "ready yet: wait until Kaggle has processed it, then run or push again",
    "labels-contradict-model": "remove `labels` from the `params` of its entry in `models`",
    "loader-empty": "check where the data class looks for it",
    "main-module-failed": 'put the training below `if __name__ == "__main__":`, or move what the pickles need into a module '
    "of its own and name that in `main_from`; then build again",
    "model-class-not-found": "name its class in `model`: net.py:Net; for code in its own folder, trust_remote_code = true in "
    "`params`",
    "multi-target-probabilities": "save one model for each target, or write a `function` that makes the rows",
    "no-model": "name `checkpoints` in the configuration",
    "not-a-checkpoint": "save `model.state_dict()`, or let Lightning save it",
    "not-a-torch-checkpoint": "check what was saved or downloaded there; a file of another kind is for the template `function`",
    "path-outside-kit": "build the kit again",
    "postprocess-fills-one-column": "choose another `postprocess`, or use your own function: function(predictions, ids)",
    "predict-loader-missing": "define one that yields the test data's batches in a fixed order",
    "prediction-failed": "fix the function; the error itself is shown above",
    "prediction-refused": "return a data frame or a series with the columns that are to be predicted, and exactly one row "
    "for each row that is asked for",
    "predictions-not-finite": "check these rows for an empty cell, an overflow of half precision, or a division by 0",
    "rank-mean-needs-all-rows": 'set `ensemble` to "mean", "weighted" or "vote"',
    "recording-prompted": "replace the question by a value in the cell, or by a secret of Kaggle; then record again",
    "recording-too-large": "download less in the cells (`allow_patterns`, `local_dir`, one variant of the weights), or attach "
    "large weights as a dataset or a Kaggle Model; then record again",
    "rows-differ-between-models": "read the test set in a fixed order",
    "sample-submission-not-found": "set `competition` in the configuration; a competition without a sample needs a `function`",
    "sample-without-targets": "write a `function` for this competition",
    "server-class-not-found": "correct the name",
    "server-takes-no-function": "adopt the competition's demo notebook: offline-kit adopt NOTEBOOK",
    "server-without-gateway": "adopt the competition's demo notebook: offline-kit adopt NOTEBOOK",
    "several-loaders": "return the one of the test data",
    "softmax-of-one-column": 'use activation = "sigmoid" for a model with one output',
    "source-changed": "if the change is intended, update the local copy and build the kit again",
    "source-file-not-found": "correct `files`, or look whether the notebook wrote it in its newest run",
    "source-invalid": "write dataset:, notebook: or model: before its name",
    "submission-invalid": "fix the code that creates the rows, and run again",
    "submission-method-missing": "add it: it gets one tensor with all predictions in the loader's order, and returns a "
    "pandas.DataFrame or a list of dictionaries",
    "submission-type-unsupported": "return a pandas.DataFrame, or a list of dictionaries (column: value), one for each row",
    "table-empty": "check the competition's data",
    "test-columns-differ": "compute them as in training, in your own `transform`, or fix the file that `columns` names",
    "test-table-not-found": 'set `test = "name.csv"` in [tool.offline-kit.notebook.params]',
    "tta-without-batches": "let it yield at least the batch itself",
    "unknown-activation": 'use "softmax" or "sigmoid", or leave it out',
    "unknown-param": "correct [tool.offline-kit.notebook.params]",
    "unsafe-checkpoint": "if you trust this file, set `weights_only = false` in [tool.offline-kit.notebook.params]; else "
    "save plain types only (numbers, strings, lists, dicts) as hyper-parameters",
    "weights-do-not-fit": "use the code and the hyper-parameters that the checkpoint was trained with",
}
"""How to fix each failure, by its code."""
FAILURE_KEY = "offline_kit_failure"  # begins the line of JSON that a failed notebook prints for programs


class KitError(RuntimeError):
    """A failure of the notebook: a stable code, what is wrong, the details, and how to fix it."""

    def __init__(
        self, what: str, details: Sequence[str] = (), *, code: str = "notebook-failed", hint: str = ""
    ) -> None:
        hint = hint or HINTS.get(code, "")
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
        print(self.to_json())
        shell = importlib.import_module("IPython").get_ipython()
        if shell is None:
            return traceback.format_exception(self)
        lines: list[str] = shell.InteractiveTB.structured_traceback(type(self), self, self.__traceback__)
        return lines


def report_failures() -> None:
    """Let a KitError that ends a script print its line of JSON, too; errors of a notebook's cells take no such hook."""
    if not isinstance(sys.excepthook, functools.partial):  # the first call
        sys.excepthook = functools.partial(_report_failure, sys.excepthook)


def _report_failure(
    previous: Callable[..., Any],
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    if isinstance(error, KitError):
        print(error.to_json(), flush=True)
    previous(kind, error, trace)


def find_failure(output: str) -> KitError | None:
    """Return the last failure in a notebook's or script's output or log, from the line of JSON that it printed."""
    for line in reversed(re.findall(rf'\{{"{FAILURE_KEY}": .*\}}$', output, re.MULTILINE)):
        try:
            fields = json.loads(line)[FAILURE_KEY]
            code, what, hint = (str(fields[name]) for name in ("code", "what", "hint"))
            return KitError(what, [str(detail) for detail in fields["details"]], hint=hint, code=code)
        except (ValueError, KeyError, TypeError):
            continue  # a notebook may print anything
    return None


def _session_folder(name: str, usual: str) -> Path:
    # Rehearsals without a sandbox name other folders.
    return Path(os.environ.get(f"OFFLINE_KIT_{name}") or usual)


@dataclass(frozen=True)
class SessionFolders:
    """The folders of a session: read-only inputs, what Kaggle keeps of the run, links and installed packages."""

    inputs: Path = field(default_factory=lambda: _session_folder("INPUT", "/kaggle/input"))
    working: Path = field(default_factory=lambda: _session_folder("WORKING", "/kaggle/working"))
    scratch: Path = field(default_factory=lambda: _session_folder("SCRATCH", "/tmp/offline-kit"))  # noqa: S108


@dataclass(frozen=True)
class OpenKit:
    """A kit that was found, checked and restored."""

    folder: Path  # its files under their original names: packages/, code/, checkpoints/
    places: SessionFolders
    checkpoints: tuple[Path, ...] = ()  # the checkpoints under their original names, sorted
    parts: Mapping[str, str] = field(default_factory=dict)  # the ids of its parts


@dataclass(frozen=True)
class PartFile:
    """One file of the manifest, and the folder that its part is mounted at."""

    part: Path
    role: str
    original: str
    stored: str
    size: int
    sha256: str


def open_kit(expected: Mapping[str, str], folders: SessionFolders | None = None) -> OpenKit:
    """Find, check and restore the parts (name: id); safe to call again. Raises KitError with every damaged file."""
    folders = folders or SessionFolders()
    parts = find_parts(expected, folders.inputs)
    entries = [entry for folder in parts.values() for entry in read_part(folder)]
    paths, notes = verify_files(entries)
    for note in notes:
        print(f"note: {note}")
    folder = restore_names(paths, folders.scratch / "kit")
    total = sum(entry.size for entry in entries)
    print(f"kit: {len(entries)} files, {total / 1e6:.1f} MB, every hash as expected")
    weights = sorted(entry.original for entry in entries if entry.role == "checkpoint")
    return OpenKit(folder, folders, tuple(folder / name for name in weights), dict(expected))


def find_parts(expected: Mapping[str, str], inputs: Path) -> dict[str, Path]:
    """Return the folder of each expected part (name: id), found by its marker at any usual depth."""
    folders: dict[str, Path] = {}
    mounted_parts = []
    # One layout after the other: the last one lists the images of competitions, too.
    markers = (marker for layout in LAYOUTS for marker in inputs.glob(f"{layout}/{MARKER}"))
    for folder in (marker.parent for marker in markers):
        try:
            manifest = json.loads((folder / MARKER).read_text(encoding="utf-8"))
            part, identity = str(manifest["part"]), str(manifest["id"])
        except (OSError, ValueError, KeyError, TypeError):
            part = identity = "unreadable"
        mounted_parts.append(f"'{folder}' holds part '{part}' of id {identity[:12]}")
        if expected.get(part) == identity:
            folders.setdefault(part, folder)
        if len(folders) == len(expected):
            return folders
    missing_parts = [f"part '{name}' of id {expected[name][:12]}" for name in expected if name not in folders]
    raise KitError(
        f"the kit of this notebook is not mounted: {', '.join(missing_parts)}",
        [*mounted_parts, *list_mounted(inputs)],
        code="kit-not-mounted",
    )


def list_mounted(inputs: Path) -> list[str]:
    """Return the sources that are mounted, as lines of an error."""
    paths = mounted_sources(inputs).values()
    return [f"mounted: {path}" for path in paths] or [f"mounted: nothing below '{inputs}'"]


def mounted_sources(inputs: Path) -> dict[str, Path]:
    """Return every mounted source by its slug, in both mount layouts."""
    paths = [path for path in sorted(inputs.glob("*")) if path.name not in GROUPS]
    # Competitions have no owner in their path.
    for group in GROUPS:
        paths += sorted((inputs / group).glob("*" if group == "competitions" else "*/*"))
    return {path.name: path for path in paths}


def mount_paths(group: str, name: str) -> list[str]:
    """Return the paths of a source below the inputs: in the layout of 2026, then in the older one."""
    return [f"{group}/{name}", name if group == "competitions" else name.partition("/")[2]]


def find_mount(group: str, name: str, inputs: Path) -> Path | None:
    """Return the folder of a mounted source ("datasets", "owner/slug"); None if it is not mounted."""
    folders = (find_folder(inputs, path) for path in mount_paths(group, name))
    return next((folder for folder in folders if folder), None)


def find_folder(folder: Path, path: str) -> Path | None:
    """Return the folder at a path below another one; None if there is none."""
    for name in path.split("/"):
        child = folder / name
        if not child.is_dir():
            # Kaggle mounts some sources in another case than their address has.
            alike = (other for other in sorted(folder.glob("*")) if other.name.lower() == name.lower())
            child = next((other for other in alike if other.is_dir()), child)
        folder = child
    return folder if folder.is_dir() else None


def find_competition(slug: str, inputs: Path) -> Path | None:
    """Return the folder of the competition's data; None if the notebook names no competition."""
    folder = find_mount("competitions", slug or REHEARSED_COMPETITION, inputs)
    if slug and folder is None:
        raise KitError(
            f"the data of the competition '{slug}' is not mounted",
            list_mounted(inputs),
            code="competition-not-mounted",
        )
    return folder


def read_part(folder: Path) -> list[PartFile]:
    """Return the files that the manifest of a part promises."""
    manifest = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    check_format(manifest, str(folder / MARKER))
    names = ("role", "original", "stored", "size", "sha256")
    entries = [PartFile(folder, **{name: line[name] for name in names}) for line in manifest["files"]]
    for path in (PurePosixPath(name) for entry in entries for name in (entry.original, entry.stored)):
        if path.is_absolute() or ".." in path.parts:
            raise KitError(f"the manifest names a file outside the kit: '{path}'", code="path-outside-kit")
    return entries


def check_format(content: Mapping[str, Any], name: str) -> None:
    """Raise KitError if a file of the kit was written for another notebook than this one."""
    if content.get("format") != 1:
        raise KitError(
            f"'{name}' has format {content.get('format')!r}, this notebook reads format 1",
            code="format-unsupported",
        )


def verify_files(entries: Sequence[PartFile]) -> tuple[dict[str, Path], list[str]]:
    """Return the path of each original name's bytes, and notes on files that Kaggle renamed; raises KitError."""
    # Every byte: an upload may be cut short, and Kaggle may unpack a file or rename it without a word.
    with ThreadPoolExecutor(READERS) as pool:
        intact = list(pool.map(lambda entry: _has_content(entry.part / entry.stored, entry), entries))
    paths, notes, problems = {}, [], []
    for entry, is_intact in zip(entries, intact, strict=True):
        stored = entry.part / entry.stored
        if is_intact:
            paths[entry.original] = stored
            continue
        others = (path for path in sorted(entry.part.rglob("*")) if path != stored)
        renamed = next((path for path in others if _has_content(path, entry)), None)
        if renamed:
            paths[entry.original] = renamed
            name = renamed.relative_to(entry.part)
            notes.append(f"'{entry.stored}' is stored as '{name}' and is used from there")
        else:
            problems.append(f"'{entry.stored}' {_explain_damage(entry)}")
    if problems:
        raise KitError(
            f"{len(problems)} of {len(entries)} files of the kit are missing or damaged",
            problems,
            code="kit-damaged",
        )
    return paths, notes


def _has_content(path: Path, entry: PartFile) -> bool:
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    return hash_file(path) == entry.sha256


def _explain_damage(entry: PartFile) -> str:
    path = entry.part / entry.stored
    for folder in (path, path.with_suffix(""), path.with_suffix("").with_suffix("")):
        if folder.is_dir() and folder != path.parent:
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
    folder.mkdir(parents=True)
    for original, path in paths.items():
        target = folder / original
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Links, because /kaggle/input is read-only and the disk has no room for weights twice.
            target.symlink_to(path.resolve())
        except OSError:
            shutil.copyfile(path, target)
    return folder


def place_file(file: Path, target: Path, mode: int = 0) -> None:
    """Copy a file, or link a large one, unless the target exists; `mode` 0: executable if it is a script."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() and not target.exists():
        target.unlink()  # of a kit that is gone
    if target.exists():
        return
    if file.stat().st_size > 64 << 20:  # nobody writes to weights
        target.symlink_to(file.resolve())
        return
    shutil.copyfile(file, target)
    with target.open("rb") as opened:
        # Kaggle drops the bit that makes a script executable.
        target.chmod(mode or (0o755 if opened.read(2) == b"#!" else 0o644))


def go_offline(environ: Any = os.environ) -> None:
    """Set the offline mode of libraries that use the network when they are imported or load a model."""
    # Without these, libraries wait for a name server that never answers, at import or in from_pretrained.
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "NO_ALBUMENTATIONS_UPDATE"):
        environ[name] = "1"
    environ["WANDB_MODE"] = "disabled"
    environ["PIP_NO_INDEX"] = environ["UV_OFFLINE"] = "1"


def use_caches(kit: OpenKit, environ: Any = os.environ) -> None:
    """Point libraries, before they are imported, at the download caches in the kit; safe to call again."""
    folder = kit.folder / "checkpoints" / "preprocessing" / "caches"
    for name, variable in CACHES.items():
        if (folder / name).is_dir():
            environ[variable] = str(folder / name)
            print(f"cache: {variable} = {folder / name}")


def pick_device(accelerator: str) -> str:
    """Return "cuda" if an accelerator was requested and exists, else "cpu"."""
    if accelerator in ("", "none"):
        return "cpu"
    try:
        has_gpu = bool(importlib.import_module("torch").cuda.is_available())
    except ModuleNotFoundError:
        has_gpu = shutil.which("nvidia-smi") is not None  # not every model is torch's
    if has_gpu:
        return "cuda"
    print(f"warning: '{accelerator}' was asked for, but this session has no GPU: running on the CPU")
    return "cpu"


def track_progress(batches: Iterable[Any], title: str, total: int = 0, unit: str = "rows") -> Iterator[Any]:
    """Yield the batches and print the progress every 30 s, in rows (their `ids`) or batches."""
    began = reported_at = time.perf_counter()
    count = 0
    for batch in batches:
        yield batch
        count += len(batch.ids) if unit == "rows" else 1
        # Lines, no bar: a log keeps every state of a bar.
        if time.perf_counter() - reported_at > 30:
            reported_at = time.perf_counter()
            of_total = f" of about {total}" if total else ""
            print(f"{title}: {count}{of_total} {unit}, {reported_at - began:.0f} s")
    print(f"{title}: {count} {unit} in {time.perf_counter() - began:.1f} s")
