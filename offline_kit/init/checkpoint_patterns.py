"""The trained files of a project, as patterns for its configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.core.files import format_size
from offline_kit.init.file_tree import DATA_FOLDERS, FileTree, top_folder
from offline_kit.init.proposal import DetectedSettings, Setting
from offline_kit.init.trained_kinds import CheckpointKinds, classify_trained

SPLIT_ABOVE = 100_000_000
"""Bytes of checkpoints above which they deserve a dataset of their own."""
_MAX_LISTED = 12
"""Checkpoints that are named one by one."""

_ALWAYS_TRAINED = frozenset({".ckpt", ".pt", ".pth", ".safetensors"})
"""Trained files wherever they lie."""
_TRAINED_IN_FOLDERS = frozenset(
    {".onnx", ".keras", ".h5", ".hdf5", ".joblib", ".pkl", ".pickle", ".bin", ".npz", ".cbm"}
    | {".sav", ".skops", ".ubj"}
)
"""Trained files in a folder that is called like one."""
_TEXT_FORMATS = frozenset({".json", ".txt"})
"""Trained files in such a folder where a framework claims them, as boosters are saved."""
_CHECKPOINT_FOLDERS = frozenset(
    {"checkpoint", "checkpoints", "ckpt", "ckpts", "model", "models", "weight", "weights"}
    | {"saved_models", "trained", "trained_models", "artifacts", "pretrained"}
)
_TRAINING_FOLDERS = frozenset({"lightning_logs", "tb_logs", "logs", "runs", "outputs", "multirun", "results"})
"""Folders where every training leaves some."""
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class ChosenCheckpoints:
    """The trained files that travel."""

    models: tuple[str, ...]
    """The models."""
    left_out: tuple[str, ...]
    """What is left out."""
    kinds: CheckpointKinds
    """What they are."""


def choose_checkpoints(tree: FileTree) -> ChosenCheckpoints:
    """Return the files of the folders kept for them, else those of the newest training.

    The `last` beside others is left out (it is one of them, or worse), and so are other trainings. Scalers,
    encoders and maps of labels are no models where a framework loads the models without a class.
    """
    candidates, left_out = _split_chosen(tree)
    kinds = classify_trained(tree, candidates) if candidates else CheckpointKinds()
    if kinds.frameworks:
        kinds = classify_trained(tree, [*candidates, *_maps_beside(tree, candidates)])
    models = tuple(name for name in candidates if name not in kinds.aside)
    if kinds.unplaced:
        kinds = replace(
            kinds, patterns=_make_patterns(tree, [name for name in models if name not in kinds.unplaced])
        )
    return ChosenCheckpoints(models=models, left_out=tuple(left_out), kinds=kinds)


def _maps_beside(tree: FileTree, chosen: Sequence[str]) -> list[str]:
    """Return the JSON files in the folders of models, but for a folder that is itself one model."""
    folders = dict.fromkeys(name.rpartition("/")[0] for name in chosen)
    inside = [
        tree.files_at(folder)
        for folder in folders
        if folder and f"{folder}/config.json" not in tree.files_at(folder)
    ]
    return [name for names in inside for name in names if name.endswith(".json") and name not in chosen]


def propose_checkpoints(tree: FileTree, choice: ChosenCheckpoints) -> DetectedSettings:
    """Return `checkpoints`, `preprocessing` and `parts`; the comments and notes say what is left out."""
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
        [f"{_count_checkpoints(len(left_out))} left out of `checkpoints`: see the comment there"]
        if left_out
        else []
    )
    preprocessing = _preprocessing_settings(choice.kinds) if choice.kinds.aside else ()
    return DetectedSettings(settings=(setting, *preprocessing, _parts_setting(total)), notes=tuple(notes))


def _preprocessing_settings(kinds: CheckpointKinds) -> tuple[Setting, ...]:
    reason = "no models: they travel beside them, and the notebook loads them by name"
    transform = Setting(
        key="transform",
        example="src/features.py:transform",
        reason='a function from the data to what the models take; preprocessing["file name"] is what was loaded',
        notebook=True,
    )
    return (Setting(key="preprocessing", value=sorted(kinds.aside), reason=reason), transform)


def _parts_setting(total: int) -> Setting:
    if total > SPLIT_ABOVE:
        reason = (
            f"{format_size(total)} of checkpoints travel only when they change, not with every change of code"
        )
        return Setting(key="parts", value="split", reason=reason)
    return Setting(
        key="parts", example="split", reason="one dataset; split: packages, code and checkpoints travel apart"
    )


def _split_chosen(tree: FileTree) -> tuple[list[str], list[str]]:
    """Return the files to take, and those to leave out."""
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
    """Part "last.ckpt" from the others of its folder, where there are any of its suffix."""
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
    """Return one glob for each folder and suffix, and the names themselves where it would take more."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in chosen:
        folder = name.rpartition("/")[0]
        groups.setdefault((folder, PurePosixPath(name).suffix), []).append(name)
    patterns: list[str] = []
    for (folder, suffix), names in sorted(groups.items()):
        pattern = f"{folder}/*{suffix}" if folder else f"*{suffix}"
        siblings = [name for name in tree.files_at(folder) if PurePosixPath(name).suffix == suffix]
        # a folder or suffix with a wildcard's sign in it is no pattern any more
        wild = bool(_WILDCARDS & set(folder + suffix))
        if f"{folder}/config.json" in tree.files_at(
            folder
        ):  # as transformers saves: the folder is the checkpoint
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
