"""What transformers' Trainer leaves beside a model and nobody needs to predict: it stays at home."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from offline_kit.core.files import format_size
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project.types import Checkpoint

_TRAINERS = re.compile(
    r"optimizer\.(pt|bin)|scheduler\.pt|scaler\.pt|rng_state(_\d+)?\.pth|training_args\.bin|trainer_state\.json"
    r"|global_step\d+|zero_to_fp32\.py|events\.out\.tfevents\..+"
)
_DEEPSPEED = re.compile(r"global_step\d+")


def without_training(
    checkpoints: Sequence[Checkpoint], named: Sequence[str] = (), *, report: Reporter = SILENT
) -> tuple[Checkpoint, ...]:
    """Return the checkpoints without the training's own files in model folders (those with a config.json).

    `named` are the patterns of the configuration: what one of them names outright stays.
    """
    folders = {_folder(each) for each in checkpoints if PurePosixPath(each.original).name == "config.json"}
    outright = {pattern.removeprefix("./") for pattern in named}
    left = [each for each in checkpoints if each.original not in outright and _is_trainers(each, folders)]
    if left:
        names = ", ".join(f"'{each.original}'" for each in left[:4]) + " …" * (len(left) > 4)
        total = format_size(sum(each.size for each in left))
        report.note(f"left out, since only the training needs it ({total}): {names}")
    return tuple(each for each in checkpoints if each not in left)


def without_blobs(files: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Return files beside the models without those of the hub's cache that its snapshots lead to."""
    return tuple(
        each
        for each in files
        if not (each.original.startswith("caches/") and "blobs" in PurePosixPath(each.original).parts[:-1])
    )


def _folder(checkpoint: Checkpoint) -> PurePosixPath:
    return PurePosixPath(checkpoint.original).parent


def _is_trainers(checkpoint: Checkpoint, folders: set[PurePosixPath]) -> bool:
    path = PurePosixPath(checkpoint.original)
    if path.parent in folders:
        return _TRAINERS.fullmatch(path.name) is not None
    return any(
        parent.parent in folders and _DEEPSPEED.fullmatch(parent.name) is not None for parent in path.parents
    )
