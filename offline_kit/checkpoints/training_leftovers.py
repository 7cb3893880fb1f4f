"""Drop what transformers' Trainer and DeepSpeed save beside a model for resuming the training.

Names: https://github.com/huggingface/transformers/blob/main/src/transformers/trainer.py
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from offline_kit.core.files import format_size
from offline_kit.core.report import SILENT, Reporter
from offline_kit.project.types import Checkpoint

_TRAINING_FILES = re.compile(
    r"optimizer\.(pt|bin)|scheduler\.pt|scaler\.pt|rng_state(_\d+)?\.pth|training_args\.bin|trainer_state\.json"
    r"|global_step\d+|zero_to_fp32\.py|events\.out\.tfevents\..+"
)
_DEEPSPEED = re.compile(r"global_step\d+")


def drop_training_files(
    checkpoints: Sequence[Checkpoint], explicit: Sequence[str] = (), *, report: Reporter = SILENT
) -> tuple[Checkpoint, ...]:
    """Return the checkpoints without training files in model folders (those with a config.json).

    `explicit` are the patterns of the configuration: what one of them names outright stays.
    """
    folders = {
        _parent_folder(checkpoint)
        for checkpoint in checkpoints
        if PurePosixPath(checkpoint.original).name == "config.json"
    }
    outright = {pattern.removeprefix("./") for pattern in explicit}
    dropped = [
        checkpoint
        for checkpoint in checkpoints
        if checkpoint.original not in outright and _is_training_file(checkpoint, folders)
    ]
    if dropped:
        names = ", ".join(f"'{checkpoint.original}'" for checkpoint in dropped[:4]) + " …" * (
            len(dropped) > 4
        )
        total = format_size(sum(checkpoint.size for checkpoint in dropped))
        report.note(f"dropped, because only the training needs it ({total}): {names}")
    return tuple(checkpoint for checkpoint in checkpoints if checkpoint not in dropped)


def drop_cache_blobs(files: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Return files without the blobs of the hub's cache, to which its snapshots link."""
    return tuple(
        file
        for file in files
        if not (file.original.startswith("caches/") and "blobs" in PurePosixPath(file.original).parts[:-1])
    )


def _parent_folder(checkpoint: Checkpoint) -> PurePosixPath:
    return PurePosixPath(checkpoint.original).parent


def _is_training_file(checkpoint: Checkpoint, folders: set[PurePosixPath]) -> bool:
    path = PurePosixPath(checkpoint.original)
    if path.parent in folders:
        return _TRAINING_FILES.fullmatch(path.name) is not None
    return any(
        parent.parent in folders and _DEEPSPEED.fullmatch(parent.name) is not None for parent in path.parents
    )
