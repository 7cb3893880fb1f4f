"""List all frameworks, and match files and folders to them."""

from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile, classify_file
from offline_kit.checkpoints.frameworks.base import Framework
from offline_kit.checkpoints.frameworks.catboost import CATBOOST
from offline_kit.checkpoints.frameworks.keras import KERAS
from offline_kit.checkpoints.frameworks.lightgbm import LIGHTGBM
from offline_kit.checkpoints.frameworks.onnx import ONNX
from offline_kit.checkpoints.frameworks.pytorch import (
    LIGHTNING,
    SAFETENSORS,
    TORCH_MODULE,
    TORCH_STATE_DICT,
    TORCHSCRIPT,
)
from offline_kit.checkpoints.frameworks.sklearn import SKLEARN
from offline_kit.checkpoints.frameworks.skops import SKOPS
from offline_kit.checkpoints.frameworks.timm import PREFIX, TIMM
from offline_kit.checkpoints.frameworks.torch_export import TORCH_EXPORT
from offline_kit.checkpoints.frameworks.transformers import TRANSFORMERS
from offline_kit.checkpoints.frameworks.xgboost import XGBOOST
from offline_kit.project.types import CheckpointKind

FRAMEWORKS: tuple[Framework, ...] = (
    *(SKLEARN, SKOPS, XGBOOST, LIGHTGBM, CATBOOST, ONNX, KERAS),
    *(LIGHTNING, TORCH_MODULE, TORCHSCRIPT, TORCH_EXPORT, TRANSFORMERS, TIMM, SAFETENSORS, TORCH_STATE_DICT),
)
"""The first one wins between equal scores."""


def find_framework(name: str) -> Framework | None:
    """Return the framework of this name, if any."""
    return next((framework for framework in FRAMEWORKS if framework.name == name), None)


def match_reference(reference: str, claimant: Framework | None) -> Framework | None:
    """Return the framework that `model` names for weights alone ("timm:resnet18"); None for the user's code."""
    weights_alone = claimant in (None, LIGHTNING, SAFETENSORS, TORCH_STATE_DICT)
    return TIMM if weights_alone and reference.startswith(PREFIX) else None


def match_framework(path: Path, known_class: ClassifiedFile | None = None) -> Framework | None:
    """Return the framework with the highest score for a file or folder; None if all are 0."""
    classified = known_class or (
        ClassifiedFile(kind=CheckpointKind.OTHER) if path.is_dir() else classify_file(path)
    )
    if classified.problem:
        return None
    scores = [(framework.score_match(path, classified), framework) for framework in FRAMEWORKS]
    best = max((claim for claim, _ in scores), default=0.0)
    return next((framework for claim, framework in scores if claim == best), None) if best > 0 else None
