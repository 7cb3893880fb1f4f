"""scikit-learn: estimators and pipelines, by pickle or joblib."""

import re
from pathlib import Path

from packaging.version import Version

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import LIKELY, PERHAPS, Framework
from offline_kit.checkpoints.pickle_streams import read_globals, read_top_modules
from offline_kit.project.types import CheckpointKind, Member, Severity

_PICKLES = frozenset({CheckpointKind.PICKLE, CheckpointKind.JOBLIB})
_SUFFIXES = frozenset(
    {".pkl", ".pickle", ".p", ".joblib", ".jbl", ".sav", ".gz", ".z", ".bz2", ".xz", ".lzma"}
)
"""Usual suffixes, compressed or not."""
_COMPATIBLE = frozenset({"xgboost", "lightgbm", "catboost", "imblearn"})
"""Libraries whose estimators have scikit-learn's methods."""
_PREPROCESSING = tuple(
    f"sklearn.{name}."
    for name in (
        *("preprocessing", "impute", "feature_extraction", "feature_selection", "decomposition"),
        *("random_projection", "compose"),
    )
)
"""Modules of classes that only prepare data; a pipeline's own class is in another one."""
_VERSION = re.compile(rb"_sklearn_version.{1,12}?(\d+\.\d+[\w.]*)", re.DOTALL)


def score_match(path: Path, sniffed: ClassifiedFile) -> float:
    """Match pickles that import from scikit-learn or the like; other pickles perhaps."""
    if path.is_dir() or (sniffed.kind not in _PICKLES and path.suffix.lower() not in _SUFFIXES):
        return 0.0
    tops = read_top_modules(path)
    if "sklearn" in tops or tops & _COMPATIBLE:
        return LIKELY
    return PERHAPS if tops and "torch" not in tops else 0.0


def list_preprocessors(path: Path) -> frozenset[str]:
    """Return the classes in a pickle that only prepare data: scalers, encoders and the like."""
    return frozenset(
        name
        for name in read_globals(path)
        if name.startswith(_PREPROCESSING) and name.rpartition(".")[2][:1].isupper()
    )


def is_preprocessor(path: Path) -> bool:
    """Whether a pickle holds only a scaler, an encoder or the like, which cannot predict."""
    classes = [
        name
        for name in read_globals(path)
        if name.startswith("sklearn.") and name.rpartition(".")[2][:1].isupper()
    ]
    return (
        bool(classes)
        and all(name.startswith(_PREPROCESSING) for name in classes)
        and not read_top_modules(path) & _COMPATIBLE
    )


def read_version(member: Member) -> str:
    """Return the version that every estimator has in its state; empty if there is none."""
    match = file_probe.search_content(member.path, _VERSION)
    return match[1].decode() if match else ""


def judge_version(trained: Version, reads: Version) -> Severity | None:
    """Warn of another minor version: estimators' attributes change between them.

    https://scikit-learn.org/stable/model_persistence.html
    """
    if trained.release[:2] != reads.release[:2]:
        return Severity.WARN
    return None


SKLEARN = Framework(
    name="sklearn",
    title="scikit-learn",
    packages=("scikit-learn", "joblib"),
    library="scikit-learn",
    score_match=score_match,
    read_version=read_version,
    judge_version=judge_version,
    task="tabular",
)
