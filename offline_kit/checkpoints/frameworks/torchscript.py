"""TorchScript: models of torch.jit.save, which bring their own code."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import torch_pickles
from offline_kit.checkpoints.frameworks.base import SURE, Framework, answer_yes


def score_match(_path: Path, sniffed: ClassifiedFile) -> float:
    """Claim the archives of torch.jit.save."""
    return SURE if torch_pickles.is_script(sniffed) else 0.0


TORCHSCRIPT = Framework(
    name="torchscript",
    title="TorchScript",
    packages=("torch",),
    library="torch",
    score_match=score_match,
    uses_column_order=answer_yes,
    runtime=("kit_torch",),
    param_names=("activation",),
)
