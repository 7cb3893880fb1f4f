"""Choose and classify a project's trained files, as patterns of its configuration."""

import contextlib
import csv
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

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

PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
TABLES = frozenset({".csv", ".feather", ".parquet", ".tsv"})
_TEXT_COLUMNS = frozenset(
    {"abstract", "comment", "comment_text", "content", "discourse_text", "essay", "excerpt", "full_text"}
    | {"prompt", "question", "question_text", "response", "review", "sentence", "text", "tweet"}
)
"""Usual names of columns with texts."""
SPLIT_ABOVE = 100_000_000  # bytes of checkpoints above which they get their own dataset
_MAX_LISTED = 12  # largest number of checkpoints that are listed

_ALWAYS_TRAINED = frozenset({".ckpt", ".pt", ".pth", ".safetensors"})
"""Suffixes of trained files in any folder."""
_TRAINED_IN_FOLDERS = frozenset(
    {".onnx", ".keras", ".h5", ".hdf5", ".joblib", ".pkl", ".pickle", ".bin", ".npz", ".cbm"}
    | {".sav", ".skops", ".ubj"}
)
"""Suffixes of trained files in a folder for checkpoints."""
_TEXT_FORMATS = frozenset({".json", ".txt"})
"""Suffixes of text files in such a folder that count if a framework claims them, as saved boosters."""
_READ_NATIVELY = frozenset({".bin", ".cbm", ".h5", ".hdf5", ".json", ".onnx", ".safetensors", ".txt", ".ubj"})
"""Suffixes of trained files that libraries open in native code, which no audit hook sees."""
_CHECKPOINT_FOLDERS = frozenset(
    {"checkpoint", "checkpoints", "ckpt", "ckpts", "model", "models", "weight", "weights"}
    | {"saved_models", "trained", "trained_models", "artifacts", "pretrained"}
)
_TRAINING_FOLDERS = frozenset({"lightning_logs", "tb_logs", "logs", "runs", "outputs", "multirun", "results"})
"""Folders in which every training run leaves checkpoints."""
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class TrainedFiles:
    """The trained files that go into the kit, and what is known of them without loading them."""

    models: Sequence[str] = ()
    left_out: Sequence[str] = ()
    frameworks: Sequence[str] = ()  # frameworks that load some of the models without the user's class
    task: str = ""  # what the models predict on, if the models or the data show it
    non_models: Sequence[str] = ()  # scalers, encoders and label maps
    unplaced: Mapping[str, str] = field(default_factory=dict)
    """Models that no framework loads as they are, and what each lacks."""
    whole_models: Collection[str] = ()  # models pickled with their class, which may run any code
    mostly_known: bool = False  # whether frameworks load at least half of the models
    patterns: Sequence[str] = ()  # the models that frameworks load, as globs, if others are unplaced


def choose_checkpoints(tree: FileTree) -> TrainedFiles:
    """Return the files in folders for checkpoints, else those of the newest training run.

    `last.ckpt` next to others is left out, because it is one of them or worse, and so are older runs. Scalers,
    encoders and label maps become preprocessing if a framework loads the models without a class.
    """
    selected, runs, loose = _sort_by_folder(tree)
    left_out = [*runs, *loose] if selected else []
    if not selected and runs:
        newest = max(runs, key=lambda name: (tree.modified_ns(name), name)).rpartition("/")[0]
        selected = [name for name in runs if name.rpartition("/")[0] == newest]
        left_out = [*(name for name in runs if name not in selected), *loose]
    selected = selected or loose
    twins = [name for name in selected if _is_last_of_others(tree, name)]
    selected = [name for name in selected if name not in twins]
    trained = _classify_trained(tree, selected, selected)
    if trained.frameworks:
        # label maps are JSON next to models, except in a folder that is itself one model
        folders = dict.fromkeys(name.rpartition("/")[0] for name in selected)
        beside = [tree.files_at(folder) for folder in folders if folder and not _is_one_model(tree, folder)]
        maps = [file for files in beside for file in files if file.endswith(".json")]
        trained = _classify_trained(tree, list(dict.fromkeys([*selected, *maps])), selected)
    return replace(trained, left_out=[*twins, *left_out])


def choose_used_checkpoints(
    tree: FileTree, used: Sequence[str], is_named: Callable[[str], bool], usual: TrainedFiles
) -> TrainedFiles:
    """Return the trained files among those that a run read, and the `usual` ones that native code may have opened.

    Of the latter `is_named` says whether the run named them. Its other files are for `preprocessing`, and the usual
    ones that it did not read are left out.
    """
    suffixes = {name: PurePosixPath(name).suffix.lower() for name in (*used, *usual.models)}
    chosen = [
        name
        for name in used
        if suffixes[name] in _ALWAYS_TRAINED | _TRAINED_IN_FOLDERS
        or (suffixes[name] in _TEXT_FORMATS and _is_claimed(tree.root / name))
    ]
    native = [name for name in usual.models if suffixes[name] in _READ_NATIVELY and name not in chosen]
    chosen += filter(is_named, native)
    trained = _classify_trained(tree, chosen, chosen)
    others = [
        name for name in used if name not in chosen and not _is_one_model(tree, name.rpartition("/")[0])
    ]
    return replace(
        trained,
        left_out=[name for name in (*usual.models, *usual.left_out) if name not in chosen],
        non_models=[*trained.non_models, *others],
    )


def _sort_by_folder(tree: FileTree) -> tuple[list[str], list[str], list[str]]:
    """Return the trained files in folders for checkpoints, those of training runs, and others."""
    kept_files, runs, loose = list[str](), list[str](), list[str]()
    for name in tree.files:
        suffix = PurePosixPath(name).suffix.lower()
        folders = {part.lower() for part in PurePosixPath(name).parts[:-1]}
        is_trained = suffix in _ALWAYS_TRAINED | _TRAINED_IN_FOLDERS | _TEXT_FORMATS
        if not is_trained or top_folder(name) in DATA_FOLDERS or not tree.file_size(name):
            continue
        if folders & _TRAINING_FOLDERS:
            runs += [name] if suffix in _ALWAYS_TRAINED else []
        elif folders & _CHECKPOINT_FOLDERS and (suffix not in _TEXT_FORMATS or _is_claimed(tree.root / name)):
            kept_files.append(name)
        elif suffix in _ALWAYS_TRAINED:
            loose.append(name)
    return kept_files, runs, loose


def _is_claimed(path: Path) -> bool:
    try:
        return framework_table.match_framework(path) is not None
    except OSError:
        return False


def _is_last_of_others(tree: FileTree, name: str) -> bool:
    """Whether a file is "last.ckpt" and its folder has others with its suffix."""
    siblings = [PurePosixPath(file) for file in (name, *tree.files_at(name.rpartition("/")[0]))]
    is_last = [file.stem.split("-v")[0] == "last" for file in siblings if file.suffix == siblings[0].suffix]
    return is_last[0] and not all(is_last)


def _classify_trained(tree: FileTree, names: Sequence[str], selected: Sequence[str]) -> TrainedFiles:
    """Classify files, of which the selected ones may be models; nothing is known of them if one cannot be read."""
    checkpoints = []
    plain = NotebookSettings(template="plain")
    try:
        for name in names:
            sniffed = classify_file(tree.root / name)
            if not sniffed.problem:  # else damaged: the build reports it
                checkpoint = Checkpoint(
                    original=name,
                    path=tree.root / name,
                    size=tree.file_size(name),
                    sha256="",  # not needed here, and hashing large files is slow
                    kind=sniffed.kind,
                    refused=sniffed.refused,
                )
                checkpoints.append(checkpoint)
        claimed = members.match_checkpoints(plain, checkpoints)
        non_models = members.find_non_models(plain, checkpoints)
    except OSError:
        return TrainedFiles(models=selected)
    unplaced = members.list_incomplete(claimed)
    loadable = {name: framework for name, framework in claimed.items() if framework and name not in unplaced}
    whole_models = {name for name, framework in claimed.items() if framework is TORCH_MODULE}
    if len(whole_models) < len(loadable):  # else they are all there is: the build asks about them
        unplaced |= dict.fromkeys(whole_models, "is a pickled model, and loading it may run any code in it")
        loadable = {name: known for name, known in loadable.items() if known is not TORCH_MODULE}
    if not loadable:
        return TrainedFiles(models=selected)
    models = [name for name in selected if name not in non_models]
    placed = [name for name in models if name not in unplaced]
    return TrainedFiles(
        models=models,
        frameworks=sorted({framework.title for framework in loadable.values()}),
        task=_guess_task(tree, loadable.values()),
        non_models=sorted(non_models),
        unplaced=unplaced,
        whole_models=whole_models,
        mostly_known=len(loadable) >= len(unplaced),
        patterns=_make_patterns(tree, placed) if unplaced else (),
    )


def _guess_task(tree: FileTree, frameworks: Iterable[Framework]) -> str:
    usual = {framework.task for framework in frameworks if framework.task}
    if usual:
        return usual.pop() if len(usual) == 1 else ""
    tables = []
    for name in tree.files:
        path, top = PurePosixPath(name.lower()), top_folder(name)
        if path.suffix in PICTURES and (top in DATA_FOLDERS or top.startswith("test")):
            return "images"
        if path.suffix in TABLES and top in DATA_FOLDERS | {""} and path.name.startswith("test"):
            tables.append(tree.root / name)
    for table in (table for table in tables if table.suffix.lower() == ".csv"):
        with contextlib.suppress(OSError, ValueError, csv.Error), table.open(encoding="utf-8") as stream:
            header = next(read_csv_rows([stream.readline(65536)]), [])
            if _TEXT_COLUMNS & {column.strip().lower() for column in header}:
                return "text"
    return "tabular" if tables else ""


def propose_checkpoints(tree: FileTree, trained: TrainedFiles, detected: DetectedSettings) -> None:
    """Add the settings `checkpoints`, `preprocessing` and `parts`, with comments on what is left out."""
    models, left_out = trained.models, trained.left_out
    total = sum(tree.file_size(name) for name in models)
    value, reason = None, "one dataset; split: separate datasets for packages, code and checkpoints"
    if total > SPLIT_ABOVE:
        value, reason = "split", f"{format_size(total)} of checkpoints are only uploaded when they change"
    detected.add(Setting(key="parts", value=value, example="split", reason=reason))
    if models:
        newest = sorted(models, key=lambda name: (-tree.modified_ns(name), name))
        comments = _list_names("newest first", tree, newest) if len(newest) > 1 else ()
        checkpoints = Setting(
            key="checkpoints",
            value=_make_patterns(tree, models),
            reason=f"{_count_checkpoints(len(models))}, {format_size(total)}",
            comments=(*comments, *_list_names("left out", tree, left_out)),
        )
    else:
        checkpoints = Setting(
            key="checkpoints",
            example=["checkpoints/*.ckpt"],
            reason="files, folders or globs; no trained file was found",
            needed_for="to predict with a trained model",
        )
    detected.add(checkpoints)
    if models and left_out:
        note = f"{_count_checkpoints(len(left_out))} left out of `checkpoints`: see its comment"
        detected.notes.append(note)
    if trained.non_models:
        reason = "not models: the notebook loads them by name"
        how = 'a function from the data to the input of the models; preprocessing["file name"] is the loaded object'
        example = "src/features.py:transform"
        detected.add(
            Setting(key="preprocessing", value=list(trained.non_models), reason=reason),
            Setting(key="transform", example=example, reason=how, notebook=True),
        )


def _is_one_model(tree: FileTree, folder: str) -> bool:
    """Whether transformers saved a model as this folder."""
    return f"{folder}/config.json" in tree.files_at(folder)


def _make_patterns(tree: FileTree, chosen: Sequence[str]) -> list[str]:
    """Return a glob for each folder and suffix, or the names if the glob would match other files."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in chosen:
        groups.setdefault((name.rpartition("/")[0], PurePosixPath(name).suffix), []).append(name)
    patterns: list[str] = []
    for (folder, suffix), names in sorted(groups.items()):
        siblings = [name for name in tree.files_at(folder) if PurePosixPath(name).suffix == suffix]
        # wildcard characters in the folder or suffix would change the meaning of a glob
        is_exact = folder and len(siblings) == len(names) and not _WILDCARDS & {*folder, *suffix}
        if _is_one_model(tree, folder):
            patterns.append(folder)
        else:
            patterns += [f"{folder}/*{suffix}"] if is_exact else names
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
