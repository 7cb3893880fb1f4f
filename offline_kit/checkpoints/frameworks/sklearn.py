"""scikit-learn: estimators and pipelines, by pickle or joblib."""

import re
from pathlib import Path

from packaging.version import Version

from offline_kit.checkpoints.file_kinds import Sniffed
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import LIKELY, PERHAPS, Framework, globals_of, tops_of
from offline_kit.project.types import CheckpointKind, Member, Severity

_PICKLES = frozenset({CheckpointKind.PICKLE, CheckpointKind.JOBLIB})
_SUFFIXES = frozenset(
    {".pkl", ".pickle", ".p", ".joblib", ".jbl", ".sav", ".gz", ".z", ".bz2", ".xz", ".lzma"}
)
"""How such files are called, compressed ones too."""
_ALIKE = frozenset({"xgboost", "lightgbm", "catboost", "imblearn"})
"""Libraries whose estimators have scikit-learn's methods."""
_PREPARING = tuple(
    f"sklearn.{name}."
    for name in (
        *("preprocessing", "impute", "feature_extraction", "feature_selection", "decomposition"),
        *("random_projection", "compose"),
    )
)
"""Where what only prepares data is defined; a pipeline's own class stands elsewhere."""
_VERSION = re.compile(rb"_sklearn_version.{1,12}?(\d+\.\d+[\w.]*)", re.DOTALL)


def claims(path: Path, sniffed: Sniffed) -> float:
    """Claim pickles that import from scikit-learn or alike; other pickles with little conviction."""
    if path.is_dir() or (sniffed.kind not in _PICKLES and path.suffix.lower() not in _SUFFIXES):
        return 0.0
    tops = tops_of(path)
    if "sklearn" in tops or tops & _ALIKE:
        return LIKELY
    return PERHAPS if tops and "torch" not in tops else 0.0


def preparing(path: Path) -> frozenset[str]:
    """Return the classes of a pickle that only prepare data: scalers, encoders and the like."""
    return frozenset(
        name
        for name in globals_of(path)
        if name.startswith(_PREPARING) and name.rpartition(".")[2][:1].isupper()
    )


def is_preprocessor(path: Path) -> bool:
    """Tell whether a pickle holds a scaler, an encoder or the like alone: something that cannot predict."""
    mine = [
        name
        for name in globals_of(path)
        if name.startswith("sklearn.") and name.rpartition(".")[2][:1].isupper()
    ]
    return bool(mine) and all(name.startswith(_PREPARING) for name in mine) and not tops_of(path) & _ALIKE


def version(member: Member) -> str:
    """Return the version that every estimator writes into its state; empty where none is found."""
    found = file_probe.search(member.path, _VERSION)
    return found[1].decode() if found else ""


def judge(trained: Version, reads: Version) -> Severity | None:
    """Warn of another minor version: an estimator's insides change between them, and nothing translates them."""
    if trained.release[:2] != reads.release[:2]:
        return Severity.WARN
    return None


SKLEARN = Framework(
    name="sklearn",
    title="scikit-learn",
    packages=("scikit-learn", "joblib"),
    library="scikit-learn",
    claims=claims,
    version=version,
    judge=judge,
    task="tabular",
)
