"""TorchScript: models of torch.jit.save, which bring their own code."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import Sniffed
from offline_kit.checkpoints.frameworks import torch_pickles
from offline_kit.checkpoints.frameworks.base import SURE, Framework, always


def claims(_path: Path, sniffed: Sniffed) -> float:
    """Claim the archives of torch.jit.save."""
    return SURE if torch_pickles.is_script(sniffed) else 0.0


TORCHSCRIPT = Framework(
    name="torchscript",
    title="TorchScript",
    packages=("torch",),
    library="torch",
    claims=claims,
    by_position=always,
    runtime=("kit_torch",),
    params=("activation",),
)
