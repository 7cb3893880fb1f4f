"""XGBoost: models of save_model (.json, .ubj), the old binary format (to explain it), and pickled models."""

import re
import struct
from functools import partial
from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.project.types import Finding, Member

_JSON_VERSION = re.compile(rb'"version"\s*:\s*\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]')
_UBJ_VERSION = re.compile(rb"\x07version\[#L.{7}\x03i(.)i(.)i(.)", re.DOTALL)
"""A list of three bytes under the key "version", as UBJSON writes it."""
_TEXT_DUMP = re.compile(rb"booster\[0\]:\s*\n0:")
# The fixed header (LearnerModelParam) of the format that XGBoost 3.1 removed.
_OLD_HEADER = 136
"""Bytes before the objective's name in the old binary format."""
_OBJECTIVES = (b"reg:", b"binary:", b"multi:", b"rank:", b"count:", b"survival:")
_SAVE = "model.save_model('model.ubj')"


def score_match(path: Path, sniffed: ClassifiedFile) -> float:
    """Match XGBoost's own formats by their first keys, and its pickles."""
    start = file_probe.read_head(path, 1024)
    own = _is_json(start) or _is_ubj(start) or _is_old(start) or _TEXT_DUMP.match(start)
    return SURE if own or file_probe.is_estimator_of(path, sniffed, "xgboost") else 0.0


def read_version(member: Member) -> str:
    """Return the model's version, pickled or not; empty for the old binary format."""
    content = file_probe.read_tail(member.path)
    if json_version := _JSON_VERSION.search(content):
        return ".".join(part.decode() for part in json_version.groups())
    # A compressed pickle does not show it; in a plain one the last of the models inside counts.
    ubj_versions = _UBJ_VERSION.findall(content)
    return ".".join(str(part[0]) for part in ubj_versions[-1]) if ubj_versions else ""


def check_member(member: Member) -> tuple[Finding, ...]:
    """Report an old format, a dump or a pickle, and how to save it instead.

    https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
    """
    if file_probe.is_pickled(member):
        return (
            file_probe.make_note(
                member,
                "is a pickled XGBoost model, which no other version promises to load",
                f"save it in its own format, which newer versions read too: {_SAVE}",
            ),
        )
    start = file_probe.read_head(member.path, 1024)
    if _is_old(start):
        remedy = f"load it with 'xgboost<3.1', save it as JSON or UBJSON ({_SAVE}), and ship that file"
        return (
            file_probe.make_warning(
                member, "is in XGBoost's old binary format, which 3.1 and newer do not read", remedy
            ),
        )
    if _TEXT_DUMP.match(start):
        remedy = f"save the model itself: {_SAVE}"
        problem = "is a dump for people (dump_model), from which XGBoost cannot make a model again"
        return (file_probe.make_stop(member, problem, remedy),)
    return _check_categories(member, start)


def _check_categories(member: Member, start: bytes) -> tuple[Finding, ...]:
    """Warn of categories: before 3.1 the file holds their numbers and not their names."""
    kind = start.find(b"feature_types")
    if kind < 0:
        with member.path.open("rb") as stream:
            start = stream.read(1 << 20)
        kind = start.find(b"feature_types")
    types = start[kind : start.find(b"]", kind)] if kind >= 0 else b""
    categorical = b'"c"' in types or b"SL\x00\x00\x00\x00\x00\x00\x00\x01c" in start[kind : kind + 4096]
    major_minor = tuple(map(int, member.version.split(".")[:2])) if member.version else (0, 0)
    if not categorical or major_minor >= (3, 1):
        return ()
    problem = (
        "has categorical columns, and before XGBoost 3.1 a model does not keep the names of its categories"
    )
    remedy = "make the numbers of the categories as in training, in a `transform` of yours"
    return (
        file_probe.make_warning(
            member, problem, f"{remedy}, or save the model again with XGBoost 3.1 or newer"
        ),
    )


def _is_json(start: bytes) -> bool:
    return re.match(rb'\s*\{\s*"(learner"\s*:\s*\{|version"\s*:\s*\[)', start) is not None and (
        b'"learner"' in start
    )


def _is_ubj(start: bytes) -> bool:
    return start.startswith(b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{")


def _is_old(start: bytes) -> bool:
    at = _OLD_HEADER + 4 * start.startswith(b"binf")
    if len(start) < at + 16:
        return False
    (length,) = struct.unpack("<Q", start[at : at + 8])
    return length < 64 and start[at + 8 :].startswith(_OBJECTIVES)


XGBOOST = Framework(
    name="xgboost",
    title="XGBoost",
    packages=("xgboost", "scikit-learn", "joblib", "pandas"),
    library="xgboost",
    score_match=score_match,
    check_member=check_member,
    check_versions=partial(file_probe.check_pickle_version, "xgboost"),
    read_version=read_version,
    task="tabular",
    param_names=("activation",),
    own_activation=True,
)
