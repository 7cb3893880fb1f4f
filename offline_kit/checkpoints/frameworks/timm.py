"""timm: its architectures by name, filled from weights alone or from a folder as it is saved for the hub."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework, answer_yes
from offline_kit.checkpoints.hub_folders import read_settings
from offline_kit.project.types import Finding, Member

PREFIX = "timm:"
"""How `model` names an architecture: "timm:resnet18"."""
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def score_match(path: Path, _sniffed: ClassifiedFile) -> float:
    """Match folders whose configuration names an architecture of timm; for files, `model` decides."""
    if not path.is_dir() or not any((path / name).is_file() for name in _WEIGHTS):
        return 0.0
    settings = read_settings(path / "config.json")
    return SURE if "architecture" in settings and "model_type" not in settings else 0.0


def check_member(member: Member) -> tuple[Finding, ...]:
    """Require an architecture if neither the folder nor the configuration names one."""
    if member.path.is_dir() or member.model or member.params.get("architecture"):
        return ()
    remedy = 'set model = "timm:resnet18", or architecture = "resnet18" in the `params` of its `models` entry'
    return (
        file_probe.make_stop(member, "holds weights alone, and no architecture of timm is named", remedy),
    )


TIMM = Framework(
    name="timm",
    title="timm",
    packages=("safetensors", "timm", "torch"),
    score_match=score_match,
    check_member=check_member,
    task="images",
    runtime=("kit_torch",),
    param_names=("activation", "weights_only", "weights", "architecture"),
    takes_model=True,
    takes_arguments=answer_yes,
)
