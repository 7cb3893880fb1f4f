"""PyTorch: weights alone (state_dict), under any key of a checkpoint; the user's code builds the model."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import Sniffed
from offline_kit.checkpoints.frameworks import torch_pickles
from offline_kit.checkpoints.frameworks.base import LIKELY, Framework, always


def claims(path: Path, sniffed: Sniffed) -> float:
    """Claim what torch.save wrote, but models themselves and scripts."""
    if path.is_dir() or sniffed.kind not in torch_pickles.TORCH or torch_pickles.is_script(sniffed):
        return 0.0
    return 0.0 if torch_pickles.holds_module(path) else LIKELY


TORCH_STATE_DICT = Framework(
    name="torch_state_dict",
    title="PyTorch (state_dict)",
    packages=("torch",),
    claims=claims,
    by_position=always,
    needs=("model",),
    runtime=("kit_torch",),
    params=("activation", "weights_only", "weights"),
    takes_model=True,
    arguments=always,
)
