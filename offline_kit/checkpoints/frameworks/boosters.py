"""XGBoost, LightGBM and CatBoost: models in their own formats, what only explains itself, and pickled models."""

import re
import struct
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import base
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.checkpoints.pickle_streams import read_globals
from offline_kit.project.types import Finding, Member, Severity

_OWN_FORMAT = "save it in its own format, which newer versions read too: "

# XGBoost: .json and .ubj, and the old binary format, to explain it
_XGBOOST_SAVE = "model.save_model('model.ubj')"
_XGBOOST_JSON = re.compile(rb'\s*\{\s*"(learner"\s*:\s*\{|version"\s*:\s*\[)')
_XGBOOST_UBJ = b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{"
_JSON_VERSION = re.compile(rb'"version"\s*:\s*\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]')
# A list of three bytes under the key "version", as UBJSON writes it
_UBJ_VERSION = re.compile(rb"\x07version\[#L.{7}\x03i(.)i(.)i(.)", re.DOTALL)
# Bytes of the fixed header (LearnerModelParam) before the objective's name, in the binary format that 3.1 removed
_OLD_HEADER = 136
_OBJECTIVES = (b"reg:", b"binary:", b"multi:", b"rank:", b"count:", b"survival:")

# LightGBM: text
_LIGHTGBM_SAVE = "model.booster_.save_model('model.txt'), or model.save_model('model.txt') for a Booster"
# Version of the text format: pickles hold the text too, but not LightGBM's own version
_LIGHTGBM_FORMAT = re.compile(rb"tree\r?\nversion=v(\d+)\r?\n")
# What 4.0 and newer write; 2.3 to 3.3 write format 3, older ones format 2
_FORMAT_OF_4 = 4

# CatBoost: .cbm and JSON
_CATBOOST_MAGIC = b"CBM1"
_CATBOOST_JSON = re.compile(rb'\s*\{\s*"(features_info|model_info|ctr_data)"\s*:')
_CATBOOST_VERSION = re.compile(rb"(?:CatBoost release |Branch: tags/v)(\d+\.\d+[\w.]*)")


def _score_xgboost(path: Path, sniffed: ClassifiedFile) -> float:
    start = base.read_head(path, 1024)
    own = (
        (_XGBOOST_JSON.match(start) and b'"learner"' in start)
        or start.startswith(_XGBOOST_UBJ)
        or _is_old_xgboost(start)
    )
    return SURE if own or base.is_estimator_of(path, sniffed, "xgboost") else 0.0


def _is_old_xgboost(start: bytes) -> bool:
    at = _OLD_HEADER + 4 * start.startswith(b"binf")
    if len(start) < at + 16:
        return False
    (length,) = struct.unpack("<Q", start[at : at + 8])
    return length < 64 and start[at + 8 :].startswith(_OBJECTIVES)


def _read_xgboost_version(path: Path) -> str:
    """Return the model's version, pickled or not; empty for the old binary format."""
    content = base.read_tail(path)
    if json_version := _JSON_VERSION.search(content):
        return b".".join(json_version.groups()).decode()
    # A compressed pickle does not show it; in a plain one the last of the models inside counts.
    ubj_versions = _UBJ_VERSION.findall(content)
    return ".".join(str(part[0]) for part in ubj_versions[-1]) if ubj_versions else ""


def _check_xgboost(member: Member) -> Iterator[Finding]:
    """Report an old format or a pickle, and how to save it instead; and categories without names.

    https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
    """
    start = b"" if base.is_pickled(member) else base.read_head(member.path, 1 << 20)
    if base.is_pickled(member):
        problem = "is a pickled XGBoost model, which no other version promises to load"
        yield base.make_note(member, problem, _OWN_FORMAT + _XGBOOST_SAVE)
    elif _is_old_xgboost(start):
        problem = "is in XGBoost's old binary format, which 3.1 and newer do not read"
        remedy = (
            f"load it with 'xgboost<3.1', save it as JSON or UBJSON ({_XGBOOST_SAVE}), and ship that file"
        )
        yield base.make_warning(member, problem, remedy)
    elif (kind := start.find(b"feature_types")) >= 0 and (base.parse_release(member.version) or (0, 0)) < (
        3,
        1,
    ):
        types = start[kind : start.find(b"]", kind)]
        if b'"c"' in types or b"SL\x00\x00\x00\x00\x00\x00\x00\x01c" in start[kind : kind + 4096]:
            problem = "has categorical columns, and before XGBoost 3.1 a model does not keep the names of its categories"
            remedy = "make the numbers of the categories as in training, in a `transform` of yours"
            remedy = f"{remedy}, or save the model again with XGBoost 3.1 or newer"
            yield base.make_warning(member, problem, remedy)


def _score_lightgbm(path: Path, sniffed: ClassifiedFile) -> float:
    start = base.read_head(path)
    own = start.startswith((b"tree\nversion=", b"tree\r\nversion="))
    return SURE if own or base.is_estimator_of(path, sniffed, "lightgbm") else 0.0


def _check_lightgbm_versions(member: Member, versions: Mapping[str, str]) -> Iterator[Finding]:
    """Warn of a pickle across version 4.0; any version reads the text of any other.

    Version 4.0 renamed attributes of Booster, so older versions load no newer pickle, and older estimators lack
    attributes that newer ones predict with; older boosters load.
    """
    available = base.parse_release(versions.get("lightgbm", ""))
    if not available or not (names := read_globals(member.path)):
        return
    stated = base.search_content(member.path, _LIGHTGBM_FORMAT)
    is_new = stated != "" and int(stated) >= _FORMAT_OF_4
    is_estimator = any(name.startswith("lightgbm.sklearn.") for name in names)
    if stated and is_new != (available >= (4, 0)) and (is_new or is_estimator):
        origin = "4.0 or newer" if is_new else "before 4.0"
        problem = (
            f"holds a model pickled by LightGBM {origin}, and the notebook has {versions['lightgbm']}, which may not "
            "load it or predict with it"
        )
        yield base.make_warning(member, problem, f"save the model as text: {_LIGHTGBM_SAVE}")


def _check_lightgbm(member: Member) -> Iterator[Finding]:
    """Report a text that is cut short, and how to save a pickle as text."""
    if base.is_pickled(member):
        problem = "is a pickled LightGBM model, which loads with about its own version only"
        yield base.make_note(member, problem, _OWN_FORMAT + _LIGHTGBM_SAVE)
    elif b"end of trees" not in base.read_tail(member.path, 64 << 20):
        problem = "is cut short: LightGBM's text has no 'end of trees'"
        yield base.make_stop(member, problem, "copy or save the file again")


def _score_catboost(path: Path, sniffed: ClassifiedFile) -> float:
    start = base.read_head(path)
    own = start.startswith(_CATBOOST_MAGIC)
    if _CATBOOST_JSON.match(start):
        own = b'"scale_and_bias"' in base.read_tail(path, 4096) or b'"oblivious_trees"' in start
    return SURE if own or base.is_estimator_of(path, sniffed, "catboost") else 0.0


def _check_catboost(member: Member) -> Iterator[Finding]:
    if base.is_pickled(member):
        save = "model.save_model('model.cbm')"
        yield base.make_note(member, "is a pickled CatBoost model", _OWN_FORMAT + save)


XGBOOST = Framework(
    **base.read_facts("xgboost"),
    score_match=_score_xgboost,
    check_member=_check_xgboost,
    check_versions=partial(base.check_pickle_version, "xgboost"),
    read_version=_read_xgboost_version,
)
LIGHTGBM = Framework(
    **base.read_facts("lightgbm"),
    score_match=_score_lightgbm,
    # Only another major version matters: the text is the same within one.
    judge_version=lambda trained, reads: Severity.WARN if trained.major > reads.major else None,
    check_member=_check_lightgbm,
    check_versions=_check_lightgbm_versions,
)
CATBOOST = Framework(
    **base.read_facts("catboost"),
    score_match=_score_catboost,
    check_member=_check_catboost,
    check_versions=partial(base.check_pickle_version, "catboost"),
    # A model that was built from a branch states no release.
    read_version=lambda path: base.search_content(path, _CATBOOST_VERSION).rstrip("."),
)
