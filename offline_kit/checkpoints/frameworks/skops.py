"""scikit-learn by skops: a zip of a schema and arrays, from which only known types are made."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from packaging.version import Version

from offline_kit.checkpoints.file_kinds import Sniffed
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.project.types import Finding, Member, Severity

_SCHEMA = "schema.json"
_VERSION = re.compile(r'"_sklearn_version":\s*\{[^{}]*?"content":\s*"\\"([\w.]+)\\""')
_KNOWN = frozenset(
    {"builtins", "collections", "datetime", "functools", "numpy", "operator", "scipy", "sklearn"}
)
"""Packages whose types skops takes by itself."""
_NODES = frozenset(
    {"sklearn.tree._tree.Tree", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"}
)
"""Types that it does not take all the same: numbers in them that are not checked could reach any memory."""


def claims(path: Path, _sniffed: Sniffed) -> float:
    """Claim zips with the schema that skops writes."""
    if not file_probe.head(path, 4).startswith(b"PK\x03\x04"):
        return 0.0
    return SURE if '"_skops_version"' in _schema(path) else 0.0


def version(member: Member) -> str:
    """Return the version of scikit-learn that its estimators state."""
    found = _VERSION.search(_schema(member.path))
    return found[1] if found else ""


def judge(trained: Version, reads: Version) -> Severity | None:
    """Warn of another minor version: attributes of fitted estimators are renamed between them."""
    return Severity.WARN if trained.release[:2] != reads.release[:2] else None


def findings(member: Member) -> tuple[Finding, ...]:
    """Return the types that skops will not make unless they are trusted."""
    try:
        names = _types(json.loads(_schema(member.path)))
    except ValueError:
        return (file_probe.stop(member, "is damaged: its schema is no JSON", "save the file again"),)
    trusted = member.params.get("trusted", ())
    allowed = set(map(str, trusted)) if isinstance(trusted, list | tuple) else set()
    strange = sorted(
        name for name in names - allowed if name in _NODES or name.partition(".")[0] not in _KNOWN
    )
    if not strange:
        return ()
    quoted = ", ".join(f'"{name}"' for name in strange)
    remedy = f"if you made the file yourself, set trusted = [{quoted}] in the `params` of its `models` entry"
    return (
        file_probe.warn(
            member, f"holds types that skops does not trust by itself: {', '.join(strange)}", remedy
        ),
    )


def _schema(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(_SCHEMA).decode("utf-8", "replace")
    except (KeyError, zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return ""


def _types(node: Any) -> set[str]:
    found: set[str] = set()
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if isinstance(each.get("__module__"), str) and isinstance(each.get("__class__"), str):
                found.add(f"{each['__module__']}.{each['__class__']}")
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    return found


SKOPS = Framework(
    name="skops",
    title="scikit-learn (skops)",
    packages=("skops", "scikit-learn"),
    library="scikit-learn",
    claims=claims,
    findings=findings,
    version=version,
    judge=judge,
    task="tabular",
    params=("trusted",),
)
