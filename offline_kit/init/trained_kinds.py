"""What the trained files of a project are: models that a framework loads without the user's code, or other."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from offline_kit.checkpoints import members
from offline_kit.checkpoints.file_kinds import classify_file
from offline_kit.checkpoints.frameworks.base import Framework
from offline_kit.checkpoints.frameworks.torch_module import TORCH_MODULE
from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.notebook.runtime.kit_runtime import read_csv_rows
from offline_kit.project.types import Checkpoint, NotebookSettings

_PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_TABLES = frozenset({".csv", ".feather", ".parquet", ".tsv"})
_TEXT_COLUMNS = frozenset(
    {"abstract", "comment", "comment_text", "content", "discourse_text", "essay", "excerpt", "full_text"}
    | {"prompt", "question", "question_text", "response", "review", "sentence", "text", "tweet"}
)
"""How columns are called that hold what a model of texts reads."""


@dataclass(frozen=True, kw_only=True)
class CheckpointKinds:
    """What was seen of them, nothing of it by loading it."""

    frameworks: tuple[str, ...] = ()
    """Titles of those that load models without a class; empty if there is no such model."""
    task: str = ""
    """What the models predict on, as far as they and the data tell."""
    aside: Mapping[str, str] = field(default_factory=dict)
    """The files that are no models, and what each is instead."""
    unplaced: Mapping[str, str] = field(default_factory=dict)
    """The models that none of the frameworks loads without a further word, and what each lacks."""
    whole_models: frozenset[str] = frozenset()
    """The models that are pickled with their class, which a person must trust."""
    known_count: int = 0
    """How many models the frameworks load."""
    patterns: Sequence[str] = ()
    """The other models, as globs."""

    @property
    def mostly_known(self) -> bool:
        """Whether frameworks load at least as many models as they do not."""
        return bool(self.frameworks) and self.known_count >= len(self.unplaced)


def classify_trained(tree: FileTree, names: Sequence[str]) -> CheckpointKinds:
    """Return what these files are; nothing is known of them where one cannot be read."""
    try:
        files = [file for name in names if (file := _read_checkpoint(tree, name))]
        plain = NotebookSettings(template="plain")
        claimed = members.match_checkpoints(plain, files)
        aside = members.find_non_models(plain, files)
    except OSError:
        return CheckpointKinds()
    unplaced = members.list_incomplete(claimed)
    loadable = [framework for name, framework in claimed.items() if framework and name not in unplaced]
    if not loadable:
        return CheckpointKinds()
    whole_models = frozenset(name for name, framework in claimed.items() if framework is TORCH_MODULE)
    if whole_models and len(whole_models) < len(loadable):  # alone, they are what the build asks about
        unplaced |= dict.fromkeys(
            whole_models, "is a whole model, and loading it may run any code that lies in it"
        )
        loadable = [framework for framework in loadable if framework is not TORCH_MODULE]
    titles = tuple(sorted({framework.title for framework in loadable}))
    return CheckpointKinds(
        frameworks=titles,
        task=_guess_task(tree, loadable),
        aside=aside,
        unplaced=unplaced,
        whole_models=whole_models,
        known_count=len(loadable),
    )


def _read_checkpoint(tree: FileTree, name: str) -> Checkpoint | None:
    path = tree.root / name
    sniffed = classify_file(path)
    if sniffed.problem:  # a damaged file says nothing of the others; the build names it
        return None
    # no digest: nothing asks for it here, and large files take a while
    return Checkpoint(
        original=name,
        path=path,
        size=tree.file_size(name),
        sha256="",
        kind=sniffed.kind,
        refused=sniffed.refused,
    )


def _guess_task(tree: FileTree, frameworks: Sequence[Framework]) -> str:
    usual = {framework.task for framework in frameworks if framework.task}
    if usual:
        return usual.pop() if len(usual) == 1 else ""
    if any(PurePosixPath(name).suffix.lower() in _PICTURES and _is_data(name) for name in tree.files):
        return "images"
    tables = [name for name in tree.files if _is_test(name)]
    if any(_read_columns(tree, name) & _TEXT_COLUMNS for name in tables):
        return "text"
    return "tabular" if tables else ""


def _is_data(name: str) -> bool:
    return top_folder(name) in DATA_FOLDERS or top_folder(name).startswith("test")


def _is_test(name: str) -> bool:
    path = PurePosixPath(name)
    near = top_folder(name) in DATA_FOLDERS or not top_folder(name)
    return near and path.suffix.lower() in _TABLES and path.name.lower().startswith("test")


def _read_columns(tree: FileTree, name: str) -> set[str]:
    if PurePosixPath(name).suffix.lower() != ".csv":
        return set()
    try:
        with (tree.root / name).open(encoding="utf-8", newline="") as stream:
            return {column.strip().lower() for column in next(read_csv_rows([stream.readline(65536)]), [])}
    except (OSError, ValueError, csv.Error):
        return set()
