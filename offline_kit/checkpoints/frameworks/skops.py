"""scikit-learn by skops: a zip of a schema and arrays, from which only known types are made."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from packaging.version import Version

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.project.types import Finding, Member, Severity

_SCHEMA = "schema.json"
_VERSION = re.compile(r'"_sklearn_version":\s*\{[^{}]*?"content":\s*"\\"([\w.]+)\\""')
_KNOWN = frozenset(
    {"builtins", "collections", "datetime", "functools", "numpy", "operator", "scipy", "sklearn"}
)
"""Packages whose types skops trusts by itself."""
_NODES = frozenset(
    {"sklearn.tree._tree.Tree", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"}
)
"""Types that it does not trust all the same: unchecked numbers in them could access any memory."""


def score_match(path: Path, _sniffed: ClassifiedFile) -> float:
    """Match archives with the schema that skops writes."""
    if not file_probe.read_head(path, 4).startswith(b"PK\x03\x04"):
        return 0.0
    return SURE if '"_skops_version"' in _read_schema(path) else 0.0


def read_version(member: Member) -> str:
    """Return the version of scikit-learn in its estimators."""
    match = _VERSION.search(_read_schema(member.path))
    return match[1] if match else ""


def judge_version(trained: Version, reads: Version) -> Severity | None:
    """Warn of another minor version: attributes of fitted estimators are renamed between them."""
    return Severity.WARN if trained.release[:2] != reads.release[:2] else None


def check_member(member: Member) -> tuple[Finding, ...]:
    """Report the types that skops does not load unless they are trusted.

    https://skops.readthedocs.io/en/stable/persistence.html
    """
    try:
        names = _list_types(json.loads(_read_schema(member.path)))
    except ValueError:
        return (file_probe.make_stop(member, "is damaged: its schema is no JSON", "save the file again"),)
    trusted = member.params.get("trusted", ())
    allowed = set(map(str, trusted)) if isinstance(trusted, list | tuple) else set()
    untrusted = sorted(
        name for name in names - allowed if name in _NODES or name.partition(".")[0] not in _KNOWN
    )
    if not untrusted:
        return ()
    quoted = ", ".join(f'"{name}"' for name in untrusted)
    remedy = f"if you made the file yourself, set trusted = [{quoted}] in the `params` of its `models` entry"
    return (
        file_probe.make_warning(
            member, f"holds types that skops does not trust by itself: {', '.join(untrusted)}", remedy
        ),
    )


def _read_schema(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(_SCHEMA).decode("utf-8", "replace")
    except (KeyError, zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return ""


def _list_types(node: Any) -> set[str]:
    type_names: set[str] = set()
    pending = [node]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if isinstance(value.get("__module__"), str) and isinstance(value.get("__class__"), str):
                type_names.add(f"{value['__module__']}.{value['__class__']}")
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return type_names


SKOPS = Framework(
    name="skops",
    title="scikit-learn (skops)",
    packages=("skops", "scikit-learn"),
    library="scikit-learn",
    score_match=score_match,
    check_member=check_member,
    read_version=read_version,
    judge_version=judge_version,
    task="tabular",
    param_names=("trusted",),
)
