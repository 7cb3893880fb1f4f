"""scikit-learn: estimators and pipelines by pickle or joblib, and by skops.

skops writes a zip of a schema and arrays, from which only known types are made.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from packaging.version import Version

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import base
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.checkpoints.pickle_streams import read_archive_member, read_globals, read_top_modules
from offline_kit.project.types import Finding, Member, Severity

_SUFFIXES = frozenset(
    {".pkl", ".pickle", ".p", ".joblib", ".jbl", ".sav", ".gz", ".z", ".bz2", ".xz", ".lzma"}
)
# Libraries whose estimators have scikit-learn's methods
_COMPATIBLE = frozenset({"xgboost", "lightgbm", "catboost", "imblearn"})
# Modules of classes that only prepare data; a pipeline's own class is in another one
_PREPROCESSING = (
    *(
        "sklearn.preprocessing.",
        "sklearn.impute.",
        "sklearn.feature_extraction.",
        "sklearn.feature_selection.",
    ),
    *("sklearn.decomposition.", "sklearn.random_projection.", "sklearn.compose."),
)
_VERSION = re.compile(rb"_sklearn_version.{1,12}?(\d+\.\d+[\w.]*)", re.DOTALL)
_SKOPS_MARK = b'"_skops_version"'
_SKOPS_VERSION = re.compile(rb'"_sklearn_version":\s*\{[^{}]*?"content":\s*"\\"([\w.]+)\\""')
# Packages whose types skops trusts by itself
_SKOPS_TRUSTS = frozenset(
    {"builtins", "collections", "datetime", "functools", "numpy", "operator", "scipy", "sklearn"}
)
# Types that it does not trust all the same: unchecked numbers in them could access any memory
_SKOPS_DISTRUSTS = frozenset(
    {"sklearn.tree._tree.Tree", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"}
)


def list_preprocessors(path: Path) -> frozenset[str]:
    """Return the classes in a pickle that only prepare data: scalers, encoders and the like."""
    return frozenset(name for name in _list_classes(path) if name.startswith(_PREPROCESSING))


def is_preprocessor(path: Path) -> bool:
    """Whether a pickle holds only a scaler, an encoder or the like, which cannot predict."""
    classes = _list_classes(path)
    return bool(classes) and classes == list_preprocessors(path) and not read_top_modules(path) & _COMPATIBLE


def _list_classes(path: Path) -> frozenset[str]:
    names = (name for name in read_globals(path) if name.startswith("sklearn."))
    return frozenset(name for name in names if name.rpartition(".")[2][:1].isupper())


class _Sklearn(Framework):
    def score_match(self, path: Path, sniffed: ClassifiedFile) -> float:
        """Match pickles that import from scikit-learn or the like; other pickles perhaps."""
        if path.is_dir() or (sniffed.kind not in base.PICKLES and path.suffix.lower() not in _SUFFIXES):
            return 0.0
        tops = read_top_modules(path)
        if tops & {"sklearn", *_COMPATIBLE}:
            return base.LIKELY
        return base.PERHAPS if tops and "torch" not in tops else 0.0

    def judge_version(self, trained: Version, reads: Version) -> Severity | None:
        """Warn of another minor version: estimators' attributes change between them.

        https://scikit-learn.org/stable/model_persistence.html
        """
        return Severity.WARN if trained.release[:2] != reads.release[:2] else None

    def read_version(self, path: Path) -> str:
        return base.search_content(path, _VERSION)


class _Skops(_Sklearn):
    def score_match(self, path: Path, _classified: ClassifiedFile) -> float:
        return SURE if _SKOPS_MARK in read_archive_member(path, "schema.json") else 0.0

    def read_version(self, path: Path) -> str:
        match = _SKOPS_VERSION.search(read_archive_member(path, "schema.json"))
        return match[1].decode() if match else ""

    def check_member(self, member: Member) -> Iterator[Finding]:
        """Report the types that skops does not load unless they are trusted.

        https://skops.readthedocs.io/en/stable/persistence.html
        """
        try:
            schema = json.loads(read_archive_member(member.path, "schema.json"))
        except ValueError:
            yield base.make_stop(member, "is damaged: its schema is no JSON", "save the file again")
            return
        pairs = [(node.get("__module__"), node.get("__class__")) for node in base.walk_objects(schema)]
        names = {
            f"{module}.{name}" for module, name in pairs if isinstance(module, str) and isinstance(name, str)
        }
        trusted = member.params.get("trusted", ())
        names -= set(map(str, trusted)) if isinstance(trusted, list | tuple) else set()
        untrusted = sorted(
            name for name in names if name in _SKOPS_DISTRUSTS or name.partition(".")[0] not in _SKOPS_TRUSTS
        )
        if untrusted:
            problem = f"holds types that skops does not trust by itself: {', '.join(untrusted)}"
            quoted = ", ".join(f'"{name}"' for name in untrusted)
            remedy = f"if you made the file yourself, set trusted = [{quoted}] in the `params` of its `models` entry"
            yield base.make_warning(member, problem, remedy)


SKLEARN, SKOPS = _Sklearn("sklearn"), _Skops("skops")
