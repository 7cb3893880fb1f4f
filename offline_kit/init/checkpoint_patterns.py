"""The trained files of a project, as patterns for its configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.core.files import format_size
from offline_kit.init.file_tree import DATA, Tree, top_of
from offline_kit.init.proposal import Findings, Setting
from offline_kit.init.trained_kinds import Kinds, look

SPLIT_ABOVE = 100_000_000
"""Bytes of checkpoints above which they deserve a dataset of their own."""
SHOWN = 12
"""Checkpoints that are named one by one."""

_SURE = frozenset({".ckpt", ".pt", ".pth", ".safetensors"})
"""Trained files wherever they lie."""
_LIKELY = frozenset(
    {".onnx", ".keras", ".h5", ".hdf5", ".joblib", ".pkl", ".pickle", ".bin", ".npz", ".cbm"}
    | {".sav", ".skops", ".ubj"}
)
"""Trained files in a folder that is called like one."""
_TEXTS = frozenset({".json", ".txt"})
"""Trained files in such a folder where a framework claims them, as boosters are saved."""
_HOMES = frozenset(
    {"checkpoint", "checkpoints", "ckpt", "ckpts", "model", "models", "weight", "weights"}
    | {"saved_models", "trained", "trained_models", "artifacts", "pretrained"}
)
_RUNS = frozenset({"lightning_logs", "tb_logs", "logs", "runs", "outputs", "multirun", "results"})
"""Folders where every training leaves some."""
_WILD = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The trained files that travel."""

    models: tuple[str, ...]
    """The models."""
    left: tuple[str, ...]
    """What is left out."""
    kinds: Kinds
    """What they are."""


def choose(tree: Tree) -> Chosen:
    """Return the files of the folders kept for them, else those of the newest training.

    The `last` beside others is left out (it is one of them, or worse), and so are other trainings. Scalers,
    encoders and maps of labels are no models where a framework loads the models without a class.
    """
    chosen, left = _chosen(tree)
    kinds = look(tree, chosen) if chosen else Kinds()
    if kinds.frameworks:
        kinds = look(tree, [*chosen, *_maps_beside(tree, chosen)])
    models = tuple(name for name in chosen if name not in kinds.aside)
    if kinds.unplaced:
        kinds = replace(
            kinds, patterns=_patterns(tree, [each for each in models if each not in kinds.unplaced])
        )
    return Chosen(models=models, left=tuple(left), kinds=kinds)


def _maps_beside(tree: Tree, chosen: Sequence[str]) -> list[str]:
    """Return the JSON files in the folders of models, but for a folder that is itself one model."""
    folders = dict.fromkeys(name.rpartition("/")[0] for name in chosen)
    inside = [
        tree.at(folder) for folder in folders if folder and f"{folder}/config.json" not in tree.at(folder)
    ]
    return [name for names in inside for name in names if name.endswith(".json") and name not in chosen]


def find(tree: Tree, found: Chosen) -> Findings:
    """Return `checkpoints`, `preprocessing` and `parts`; the comments and notes say what is left out."""
    chosen, left = found.models, found.left
    if not chosen:
        nothing = Setting(
            key="checkpoints",
            example=["checkpoints/*.ckpt"],
            why="files, folders or globs; no trained file was found",
            needed="to predict with a trained model",
        )
        return Findings(settings=(nothing, _parts(0)))
    newest = sorted(chosen, key=lambda name: (-tree.modified(name), name))
    total = sum(tree.size(name) for name in chosen)
    setting = Setting(
        key="checkpoints",
        value=_patterns(tree, chosen),
        why=f"{_count(len(chosen))}, {format_size(total)}",
        more=(*_listing("newest first", tree, newest * (len(newest) > 1)), *_listing("left out", tree, left)),
    )
    notes = [f"{_count(len(left))} left out of `checkpoints`: see the comment there"] if left else []
    beside = _preprocessing(found.kinds) if found.kinds.aside else ()
    return Findings(settings=(setting, *beside, _parts(total)), notes=tuple(notes))


def _preprocessing(kinds: Kinds) -> tuple[Setting, ...]:
    why = "no models: they travel beside them, and the notebook loads them by name"
    transform = Setting(
        key="transform",
        example="src/features.py:transform",
        why='a function from the data to what the models take; preprocessing["file name"] is what was loaded',
        notebook=True,
    )
    return (Setting(key="preprocessing", value=sorted(kinds.aside), why=why), transform)


def _parts(total: int) -> Setting:
    if total > SPLIT_ABOVE:
        why = (
            f"{format_size(total)} of checkpoints travel only when they change, not with every change of code"
        )
        return Setting(key="parts", value="split", why=why)
    return Setting(
        key="parts", example="split", why="one dataset; split: packages, code and checkpoints travel apart"
    )


def _chosen(tree: Tree) -> tuple[list[str], list[str]]:
    """Return the files to take, and those to leave out."""
    homes, runs, others = _sorted_out(tree)
    if homes:
        taken, twins = _without_last(tree, homes)
        return taken, [*twins, *runs, *others]
    if runs:
        newest = max(runs, key=lambda name: (tree.modified(name), name)).rpartition("/")[0]
        taken, twins = _without_last(tree, [name for name in runs if name.rpartition("/")[0] == newest])
        return taken, [*twins, *(name for name in runs if name.rpartition("/")[0] != newest), *others]
    taken, twins = _without_last(tree, others)
    return taken, twins


def _sorted_out(tree: Tree) -> tuple[list[str], list[str], list[str]]:
    homes: list[str] = []
    runs: list[str] = []
    others: list[str] = []
    for name in tree.files:
        suffix = PurePosixPath(name).suffix.lower()
        folders = {part.lower() for part in PurePosixPath(name).parts[:-1]}
        if top_of(name) in DATA or suffix not in _SURE | _LIKELY | _TEXTS or not tree.size(name):
            continue
        if folders & _RUNS and suffix in _SURE:
            runs.append(name)
        elif folders & _HOMES and not folders & _RUNS and (suffix not in _TEXTS or _is_claimed(tree, name)):
            homes.append(name)
        elif suffix in _SURE:
            others.append(name)
    return homes, runs, others


def _is_claimed(tree: Tree, name: str) -> bool:
    try:
        return framework_table.match_framework(tree.root / name) is not None
    except OSError:
        return False


def _without_last(tree: Tree, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part "last.ckpt" from the others of its folder, where there are any of its suffix."""
    taken: list[str] = []
    twins: list[str] = []
    for name in names:
        beside = _is_last(name) and [
            other
            for other in tree.at(name.rpartition("/")[0])
            if PurePosixPath(other).suffix == PurePosixPath(name).suffix and not _is_last(other)
        ]
        (twins if beside else taken).append(name)
    return taken, twins


def _is_last(name: str) -> bool:
    return PurePosixPath(name).stem.split("-v")[0] == "last"


def _patterns(tree: Tree, chosen: Sequence[str]) -> list[str]:
    """Return one glob for each folder and suffix, and the names themselves where it would take more."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in chosen:
        folder = name.rpartition("/")[0]
        groups.setdefault((folder, PurePosixPath(name).suffix), []).append(name)
    found: list[str] = []
    for (folder, suffix), names in sorted(groups.items()):
        pattern = f"{folder}/*{suffix}" if folder else f"*{suffix}"
        beside = [name for name in tree.at(folder) if PurePosixPath(name).suffix == suffix]
        # a folder or suffix with a wildcard's sign in it is no pattern any more
        wild = bool(_WILD & set(folder + suffix))
        if f"{folder}/config.json" in tree.at(folder):  # as transformers saves: the folder is the checkpoint
            found.append(folder)
        else:
            found += names if wild or not folder or len(beside) > len(names) else [pattern]
    return list(dict.fromkeys(found))


def _listing(title: str, tree: Tree, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    shown = [f"{name} ({format_size(tree.size(name))})" for name in names[:SHOWN]]
    if len(names) > SHOWN:
        shown.append(f"and {len(names) - SHOWN} more")
    return (f"{title}: {', '.join(shown)}",)


def _count(number: int) -> str:
    return f"{number} checkpoint{'s' * (number != 1)}"
