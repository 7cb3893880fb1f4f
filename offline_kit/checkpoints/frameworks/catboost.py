"""CatBoost: models of save_model (.cbm, JSON), and pickled models."""

import re
from functools import partial
from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.project.types import Finding, Member

_VERSION = re.compile(rb"(?:CatBoost release |Branch: tags/v)(\d+\.\d+[\w.]*)")
_MAGIC = b"CBM1"
_SAVE = "model.save_model('model.cbm')"


def score_match(path: Path, sniffed: ClassifiedFile) -> float:
    """Match CatBoost's binary and JSON models, and its pickles."""
    start = file_probe.read_head(path)
    if start.startswith(_MAGIC) or _is_json(path, start):
        return SURE
    return SURE if file_probe.is_estimator_of(path, sniffed, "catboost") else 0.0


def read_version(member: Member) -> str:
    """Return the model's release; empty if it was built from a branch."""
    match = file_probe.search_content(member.path, _VERSION)
    return match[1].decode().rstrip(".") if match else ""


def check_member(member: Member) -> tuple[Finding, ...]:
    """Suggest CatBoost's own format for a pickled model."""
    if not file_probe.is_pickled(member):
        return ()
    remedy = f"save it in its own format, which newer versions read too: {_SAVE}"
    return (file_probe.make_note(member, "is a pickled CatBoost model", remedy),)


def _is_json(path: Path, start: bytes) -> bool:
    if re.match(rb'\s*\{\s*"(features_info|model_info|ctr_data)"\s*:', start) is None:
        return False
    end = file_probe.read_tail(path, 4096)
    return b'"scale_and_bias"' in end or b'"oblivious_trees"' in start


CATBOOST = Framework(
    name="catboost",
    title="CatBoost",
    packages=("catboost", "joblib", "pandas"),
    library="catboost",
    score_match=score_match,
    check_member=check_member,
    check_versions=partial(file_probe.check_pickle_version, "catboost"),
    read_version=read_version,
    task="tabular",
)
