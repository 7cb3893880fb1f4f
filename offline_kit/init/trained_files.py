"""Choose and classify a project's trained files, as patterns of its configuration."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from offline_kit.checkpoints import members
from offline_kit.checkpoints.file_kinds import classify_file
from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.checkpoints.frameworks.base import Framework
from offline_kit.checkpoints.frameworks.pytorch import TORCH_MODULE
from offline_kit.core.files import format_size
from offline_kit.init.config_toml import DetectedSettings, Setting
from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.notebook.runtime.kit_runtime import read_csv_rows
from offline_kit.project.types import Checkpoint, NotebookSettings

_PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_TABLES = frozenset({".csv", ".feather", ".parquet", ".tsv"})
_TEXT_COLUMNS = frozenset(
    {"abstract", "comment", "comment_text", "content", "discourse_text", "essay", "excerpt", "full_text"}
    | {"prompt", "question", "question_text", "response", "review", "sentence", "text", "tweet"}
)
"""Usual names of columns with texts."""


@dataclass(frozen=True, kw_only=True)
class CheckpointKinds:
    """What is known of trained files without loading them."""

    frameworks: tuple[str, ...] = ()
    """Frameworks that load some of the models without the user's class."""
    task: str = ""
    """What the models predict on, if the models or the data show it."""
    non_models: Mapping[str, str] = field(default_factory=dict)
    unplaced: Mapping[str, str] = field(default_factory=dict)
    """Models that no framework loads as they are, and what each lacks."""
    whole_models: frozenset[str] = frozenset()
    """Models pickled with their class, which may run any code."""
    known_count: int = 0
    """Number of models that frameworks load."""
    patterns: Sequence[str] = ()
    """The models that frameworks load, as globs."""

    @property
    def mostly_known(self) -> bool:
        """Whether frameworks load at least half of the models."""
        return bool(self.frameworks) and self.known_count >= len(self.unplaced)


def classify_trained(tree: FileTree, names: Sequence[str]) -> CheckpointKinds:
    """Classify files; return nothing known if one cannot be read."""
    try:
        files = [file for name in names if (file := _read_checkpoint(tree, name))]
        plain = NotebookSettings(template="plain")
        claimed = members.match_checkpoints(plain, files)
        non_models = members.find_non_models(plain, files)
    except OSError:
        return CheckpointKinds()
    unplaced = members.list_incomplete(claimed)
    loadable = [framework for name, framework in claimed.items() if framework and name not in unplaced]
    if not loadable:
        return CheckpointKinds()
    whole_models = frozenset(name for name, framework in claimed.items() if framework is TORCH_MODULE)
    if whole_models and len(whole_models) < len(
        loadable
    ):  # if they are all there is, the build asks about them
        unplaced |= dict.fromkeys(whole_models, "is a pickled model, and loading it may run any code in it")
        loadable = [framework for framework in loadable if framework is not TORCH_MODULE]
    titles = tuple(sorted({framework.title for framework in loadable}))
    return CheckpointKinds(
        frameworks=titles,
        task=_guess_task(tree, loadable),
        non_models=non_models,
        unplaced=unplaced,
        whole_models=whole_models,
        known_count=len(loadable),
    )


def _read_checkpoint(tree: FileTree, name: str) -> Checkpoint | None:
    path = tree.root / name
    sniffed = classify_file(path)
    if sniffed.problem:  # damaged: the build reports it
        return None
    # no digest: it is not needed here, and hashing large files is slow
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


SPLIT_ABOVE = 100_000_000
"""Bytes of checkpoints above which they get their own dataset."""
_MAX_LISTED = 12
"""Largest number of checkpoints that are listed."""

_ALWAYS_TRAINED = frozenset({".ckpt", ".pt", ".pth", ".safetensors"})
"""Suffixes of trained files in any folder."""
_TRAINED_IN_FOLDERS = frozenset(
    {".onnx", ".keras", ".h5", ".hdf5", ".joblib", ".pkl", ".pickle", ".bin", ".npz", ".cbm"}
    | {".sav", ".skops", ".ubj"}
)
"""Suffixes of trained files in a folder for checkpoints."""
_TEXT_FORMATS = frozenset({".json", ".txt"})
"""Suffixes of text files in such a folder that count if a framework claims them, as saved boosters."""
_CHECKPOINT_FOLDERS = frozenset(
    {"checkpoint", "checkpoints", "ckpt", "ckpts", "model", "models", "weight", "weights"}
    | {"saved_models", "trained", "trained_models", "artifacts", "pretrained"}
)
_TRAINING_FOLDERS = frozenset({"lightning_logs", "tb_logs", "logs", "runs", "outputs", "multirun", "results"})
"""Folders in which every training run leaves checkpoints."""
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class ChosenCheckpoints:
    """The trained files that go into the kit."""

    models: tuple[str, ...]
    left_out: tuple[str, ...]
    kinds: CheckpointKinds


def choose_checkpoints(tree: FileTree) -> ChosenCheckpoints:
    """Return the files in folders for checkpoints, else those of the newest training run.

    `last.ckpt` next to others is left out, because it is one of them or worse, and so are older runs. Scalers,
    encoders and label maps become preprocessing if a framework loads the models without a class.
    """
    selected, left_out = _split_chosen(tree)
    kinds = classify_trained(tree, selected) if selected else CheckpointKinds()
    if kinds.frameworks:
        kinds = classify_trained(tree, [*selected, *_maps_beside(tree, selected)])
    models = tuple(name for name in selected if name not in kinds.non_models)
    if kinds.unplaced:
        kinds = replace(
            kinds, patterns=_make_patterns(tree, [name for name in models if name not in kinds.unplaced])
        )
    return ChosenCheckpoints(models=models, left_out=tuple(left_out), kinds=kinds)


def _maps_beside(tree: FileTree, chosen: Sequence[str]) -> list[str]:
    """Return the JSON files next to models, except in a folder that is itself one model."""
    folders = dict.fromkeys(name.rpartition("/")[0] for name in chosen)
    inside = [
        tree.files_at(folder)
        for folder in folders
        if folder and f"{folder}/config.json" not in tree.files_at(folder)
    ]
    return [name for names in inside for name in names if name.endswith(".json") and name not in chosen]


def propose_checkpoints(tree: FileTree, choice: ChosenCheckpoints) -> DetectedSettings:
    """Return the settings `checkpoints`, `preprocessing` and `parts`, with comments on what is left out."""
    models, left_out = choice.models, choice.left_out
    if not models:
        nothing = Setting(
            key="checkpoints",
            example=["checkpoints/*.ckpt"],
            reason="files, folders or globs; no trained file was found",
            needed_for="to predict with a trained model",
        )
        return DetectedSettings(settings=(nothing, _parts_setting(0)))
    newest = sorted(models, key=lambda name: (-tree.modified_ns(name), name))
    total = sum(tree.file_size(name) for name in models)
    setting = Setting(
        key="checkpoints",
        value=_make_patterns(tree, models),
        reason=f"{_count_checkpoints(len(models))}, {format_size(total)}",
        comments=(
            *_list_names("newest first", tree, newest * (len(newest) > 1)),
            *_list_names("left out", tree, left_out),
        ),
    )
    notes = (
        [f"{_count_checkpoints(len(left_out))} left out of `checkpoints`: see its comment"]
        if left_out
        else []
    )
    preprocessing = _preprocessing_settings(choice.kinds) if choice.kinds.non_models else ()
    return DetectedSettings(settings=(setting, *preprocessing, _parts_setting(total)), notes=tuple(notes))


def _preprocessing_settings(kinds: CheckpointKinds) -> tuple[Setting, ...]:
    reason = "not models: the notebook loads them by name"
    transform = Setting(
        key="transform",
        example="src/features.py:transform",
        reason='a function from the data to the input of the models; preprocessing["file name"] is the loaded object',
        notebook=True,
    )
    return (Setting(key="preprocessing", value=sorted(kinds.non_models), reason=reason), transform)


def _parts_setting(total: int) -> Setting:
    if total > SPLIT_ABOVE:
        reason = f"{format_size(total)} of checkpoints are only uploaded when they change"
        return Setting(key="parts", value="split", reason=reason)
    return Setting(
        key="parts",
        example="split",
        reason="one dataset; split: separate datasets for packages, code and checkpoints",
    )


def _split_chosen(tree: FileTree) -> tuple[list[str], list[str]]:
    """Return the files to ship, and those to leave out."""
    kept_files, runs, loose = _sort_by_folder(tree)
    if kept_files:
        chosen, twins = _split_last(tree, kept_files)
        return chosen, [*twins, *runs, *loose]
    if runs:
        newest = max(runs, key=lambda name: (tree.modified_ns(name), name)).rpartition("/")[0]
        chosen, twins = _split_last(tree, [name for name in runs if name.rpartition("/")[0] == newest])
        return chosen, [*twins, *(name for name in runs if name.rpartition("/")[0] != newest), *loose]
    chosen, twins = _split_last(tree, loose)
    return chosen, twins


def _sort_by_folder(tree: FileTree) -> tuple[list[str], list[str], list[str]]:
    kept_files: list[str] = []
    runs: list[str] = []
    loose: list[str] = []
    for name in tree.files:
        suffix = PurePosixPath(name).suffix.lower()
        folders = {part.lower() for part in PurePosixPath(name).parts[:-1]}
        if (
            top_folder(name) in DATA_FOLDERS
            or suffix not in _ALWAYS_TRAINED | _TRAINED_IN_FOLDERS | _TEXT_FORMATS
            or not tree.file_size(name)
        ):
            continue
        if folders & _TRAINING_FOLDERS and suffix in _ALWAYS_TRAINED:
            runs.append(name)
        elif (
            folders & _CHECKPOINT_FOLDERS
            and not folders & _TRAINING_FOLDERS
            and (suffix not in _TEXT_FORMATS or _is_claimed(tree, name))
        ):
            kept_files.append(name)
        elif suffix in _ALWAYS_TRAINED:
            loose.append(name)
    return kept_files, runs, loose


def _is_claimed(tree: FileTree, name: str) -> bool:
    try:
        return framework_table.match_framework(tree.root / name) is not None
    except OSError:
        return False


def _split_last(tree: FileTree, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate "last.ckpt" if its folder has others with its suffix."""
    remaining: list[str] = []
    twins: list[str] = []
    for name in names:
        siblings = _is_last(name) and [
            sibling
            for sibling in tree.files_at(name.rpartition("/")[0])
            if PurePosixPath(sibling).suffix == PurePosixPath(name).suffix and not _is_last(sibling)
        ]
        (twins if siblings else remaining).append(name)
    return remaining, twins


def _is_last(name: str) -> bool:
    return PurePosixPath(name).stem.split("-v")[0] == "last"


def _make_patterns(tree: FileTree, chosen: Sequence[str]) -> list[str]:
    """Return a glob for each folder and suffix, or the names if the glob would match other files."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in chosen:
        folder = name.rpartition("/")[0]
        groups.setdefault((folder, PurePosixPath(name).suffix), []).append(name)
    patterns: list[str] = []
    for (folder, suffix), names in sorted(groups.items()):
        pattern = f"{folder}/*{suffix}" if folder else f"*{suffix}"
        siblings = [name for name in tree.files_at(folder) if PurePosixPath(name).suffix == suffix]
        # wildcard characters in the folder or suffix would change the meaning of a glob
        wild = bool(_WILDCARDS & set(folder + suffix))
        if f"{folder}/config.json" in tree.files_at(
            folder
        ):  # saved by transformers: the folder is the checkpoint
            patterns.append(folder)
        else:
            patterns += names if wild or not folder or len(siblings) > len(names) else [pattern]
    return list(dict.fromkeys(patterns))


def _list_names(title: str, tree: FileTree, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    descriptions = [f"{name} ({format_size(tree.file_size(name))})" for name in names[:_MAX_LISTED]]
    if len(names) > _MAX_LISTED:
        descriptions.append(f"and {len(names) - _MAX_LISTED} more")
    return (f"{title}: {', '.join(descriptions)}",)


def _count_checkpoints(number: int) -> str:
    return f"{number} checkpoint{'s' * (number != 1)}"
