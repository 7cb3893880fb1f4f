"""PyTorch: weights alone (state_dict), under any key of a checkpoint; the user's code builds the model."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import torch_pickles
from offline_kit.checkpoints.frameworks.base import LIKELY, Framework, answer_yes


def score_match(path: Path, sniffed: ClassifiedFile) -> float:
    """Claim what torch.save wrote, but models themselves and scripts."""
    if path.is_dir() or sniffed.kind not in torch_pickles.TORCH or torch_pickles.is_script(sniffed):
        return 0.0
    return 0.0 if torch_pickles.holds_module(path) else LIKELY


TORCH_STATE_DICT = Framework(
    name="torch_state_dict",
    title="PyTorch (state_dict)",
    packages=("torch",),
    score_match=score_match,
    uses_column_order=answer_yes,
    required_keys=("model",),
    runtime=("kit_torch",),
    param_names=("activation", "weights_only", "weights"),
    takes_model=True,
    takes_arguments=answer_yes,
)
