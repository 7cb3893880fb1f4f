"""safetensors: weights alone, without pickle; the user's code builds the model."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import Sniffed
from offline_kit.checkpoints.frameworks.base import LIKELY, Framework, always
from offline_kit.project.types import CheckpointKind


def claims(_path: Path, sniffed: Sniffed) -> float:
    """Claim single files; those in the folder of a library that knows how to load them are the folder's."""
    return LIKELY if sniffed.kind is CheckpointKind.SAFETENSORS else 0.0


SAFETENSORS = Framework(
    name="safetensors",
    title="safetensors",
    packages=("safetensors", "torch"),
    claims=claims,
    by_position=always,
    needs=("model",),
    runtime=("kit_torch",),
    params=("activation", "weights_only", "weights"),
    takes_model=True,
    arguments=always,
)
