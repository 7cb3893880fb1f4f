"""Lightning: checkpoints of a Trainer, with the hyper-parameters that the model is made from."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import torch_pickles
from offline_kit.checkpoints.frameworks.base import SURE, Framework, answer_yes
from offline_kit.project.types import CheckpointKind, Member


def score_match(_path: Path, sniffed: ClassifiedFile) -> float:
    """Claim checkpoints with Lightning's keys."""
    return SURE if sniffed.kind is CheckpointKind.LIGHTNING else 0.0


def read_version(member: Member) -> str:
    """Return the version that the checkpoint states."""
    return torch_pickles.lightning_version(member.path)


LIGHTNING = Framework(
    name="lightning",
    title="Lightning",
    packages=("torch",),
    library="pytorch-lightning",
    score_match=score_match,
    uses_column_order=answer_yes,
    read_version=read_version,
    required_keys=("model",),
    runtime=("kit_torch",),
    param_names=("activation", "weights_only", "weights"),
    takes_model=True,
    takes_arguments=answer_yes,
)
