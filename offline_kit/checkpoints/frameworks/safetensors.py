"""safetensors: weights alone, without pickle; the user's code builds the model."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks.base import LIKELY, Framework, answer_yes
from offline_kit.project.types import CheckpointKind


def score_match(_path: Path, sniffed: ClassifiedFile) -> float:
    """Claim single files; those in the folder of a library that knows how to load them are the folder's."""
    return LIKELY if sniffed.kind is CheckpointKind.SAFETENSORS else 0.0


SAFETENSORS = Framework(
    name="safetensors",
    title="safetensors",
    packages=("safetensors", "torch"),
    score_match=score_match,
    uses_column_order=answer_yes,
    required_keys=("model",),
    runtime=("kit_torch",),
    param_names=("activation", "weights_only", "weights"),
    takes_model=True,
    takes_arguments=answer_yes,
)
