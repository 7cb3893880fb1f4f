"""Lightning: checkpoints of a Trainer, with the hyper-parameters that the model is made from."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import Sniffed
from offline_kit.checkpoints.frameworks import torch_pickles
from offline_kit.checkpoints.frameworks.base import SURE, Framework, always
from offline_kit.project.types import CheckpointKind, Member


def claims(_path: Path, sniffed: Sniffed) -> float:
    """Claim checkpoints with Lightning's keys."""
    return SURE if sniffed.kind is CheckpointKind.LIGHTNING else 0.0


def version(member: Member) -> str:
    """Return the version that the checkpoint states."""
    return torch_pickles.lightning_version(member.path)


LIGHTNING = Framework(
    name="lightning",
    title="Lightning",
    packages=("torch",),
    library="pytorch-lightning",
    claims=claims,
    by_position=always,
    version=version,
    needs=("model",),
    runtime=("kit_torch",),
    params=("activation", "weights_only", "weights"),
    takes_model=True,
    arguments=always,
)
