"""XGBoost, LightGBM and CatBoost: models in their own formats, what only explains itself, and pickled models."""

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.version import Version

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
# Version of the text format, which pickles hold too, but not LightGBM's own: 4.0 and newer write format 4
_LIGHTGBM_FORMAT = re.compile(rb"tree\r?\nversion=v(\d+)\r?\n")

# CatBoost: .cbm and JSON
_CATBOOST_JSON = re.compile(rb'\s*\{\s*"(features_info|model_info|ctr_data)"\s*:')
_CATBOOST_VERSION = re.compile(rb"(?:CatBoost release |Branch: tags/v)(\d+\.\d+[\w.]*)")


class _Booster(Framework):
    """Recognized by its own format, or as a pickle of its estimators alone."""

    def has_own_format(self, path: Path, start: bytes) -> bool:
        """Whether a file of these first bytes is in the library's own format."""
        raise NotImplementedError

    def score_match(self, path: Path, classified: ClassifiedFile) -> float:
        is_own = self.has_own_format(path, base.read_head(path, 1024))
        return SURE if is_own or base.is_estimator_of(path, classified, self.name) else 0.0

    def check_versions(self, member: Member, versions: Mapping[str, str]) -> Iterator[Finding]:
        """Warn of a pickle of an older version: libraries promise to read old files in their own formats only.

        https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
        """
        saved, available = base.parse_release(member.version), base.parse_release(versions.get(self.name, ""))
        if base.is_pickled(member) and member.version_said and saved and saved < available:
            problem = (
                f"is a pickle of {self.name} {member.version}, and the notebook has {versions[self.name]}, which may not "
                "load it"
            )
            remedy = f'save it in its own format (save_model), or add "{self.name}=={member.version}" to the requirements'
            yield base.make_warning(member, problem, remedy)


class _XGBoost(_Booster):
    def has_own_format(self, _path: Path, start: bytes) -> bool:
        is_json = bool(_XGBOOST_JSON.match(start)) and b'"learner"' in start
        return is_json or start.startswith(_XGBOOST_UBJ) or _is_old_xgboost(start)

    def read_version(self, path: Path) -> str:
        """Return the model's version, pickled or not; empty for the old binary format."""
        content = base.read_tail(path)
        if json_version := _JSON_VERSION.search(content):
            return b".".join(json_version.groups()).decode()
        # A compressed pickle does not show it; in a plain one the last of the models inside counts.
        ubj_versions = _UBJ_VERSION.findall(content)
        return ".".join(str(part[0]) for part in ubj_versions[-1]) if ubj_versions else ""

    def check_member(self, member: Member) -> Iterator[Finding]:
        """Report an old format or a pickle, and how to save it instead; and categories without names.

        https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
        """
        if base.is_pickled(member):
            problem = "is a pickled XGBoost model, which no other version promises to load"
            yield base.make_note(member, problem, _OWN_FORMAT + _XGBOOST_SAVE)
            return
        start = base.read_head(member.path, 1 << 20)
        if _is_old_xgboost(start):
            problem = "is in XGBoost's old binary format, which 3.1 and newer do not read"
            remedy = (
                f"load it with 'xgboost<3.1', save it as JSON or UBJSON ({_XGBOOST_SAVE}), and ship that file"
            )
            yield base.make_warning(member, problem, remedy)
            return
        kind = start.find(b"feature_types")
        types = start[kind : start.find(b"]", kind)] if kind >= 0 else b""
        is_categorical = (
            b'"c"' in types or b"SL\x00\x00\x00\x00\x00\x00\x00\x01c" in start[kind : kind + 4096]
        )
        if kind >= 0 and is_categorical and base.parse_release(member.version) < (3, 1):
            problem = "has categorical columns, and before XGBoost 3.1 a model does not keep the names of its categories"
            remedy = "make the numbers of the categories as in training, in a `transform` of yours"
            remedy = f"{remedy}, or save the model again with XGBoost 3.1 or newer"
            yield base.make_warning(member, problem, remedy)


def _is_old_xgboost(start: bytes) -> bool:
    at = _OLD_HEADER + 4 * start.startswith(b"binf")
    if len(start) < at + 16:
        return False
    (length,) = struct.unpack("<Q", start[at : at + 8])
    return length < 64 and start[at + 8 :].startswith(_OBJECTIVES)


class _LightGBM(_Booster):
    def has_own_format(self, _path: Path, start: bytes) -> bool:
        return start.startswith((b"tree\nversion=", b"tree\r\nversion="))

    def judge_version(self, trained: Version, reads: Version) -> Severity | None:
        """Warn of another major version only: the text is the same within one."""
        return Severity.WARN if trained.major > reads.major else None

    def check_versions(self, member: Member, versions: Mapping[str, str]) -> Iterator[Finding]:
        """Warn of a pickle across version 4.0; any version reads the text of any other.

        Version 4.0 renamed attributes of Booster, so older versions load no newer pickle, and older estimators lack
        attributes that newer ones predict with; older boosters load.
        """
        available = base.parse_release(versions.get("lightgbm", ""))
        if not available or not (names := read_globals(member.path)):
            return
        stated = base.search_content(member.path, _LIGHTGBM_FORMAT)
        is_new = stated != "" and int(stated) >= 4
        is_estimator = any(name.startswith("lightgbm.sklearn.") for name in names)
        if stated and is_new != (available >= (4, 0)) and (is_new or is_estimator):
            origin = "4.0 or newer" if is_new else "before 4.0"
            problem = (
                f"holds a model pickled by LightGBM {origin}, and the notebook has {versions['lightgbm']}, which may not "
                "load it or predict with it"
            )
            yield base.make_warning(member, problem, f"save the model as text: {_LIGHTGBM_SAVE}")

    def check_member(self, member: Member) -> Iterator[Finding]:
        """Report a text that is cut short, and how to save a pickle as text."""
        if base.is_pickled(member):
            problem = "is a pickled LightGBM model, which loads with about its own version only"
            yield base.make_note(member, problem, _OWN_FORMAT + _LIGHTGBM_SAVE)
        elif b"end of trees" not in base.read_tail(member.path, 64 << 20):
            problem = "is cut short: LightGBM's text has no 'end of trees'"
            yield base.make_stop(member, problem, "copy or save the file again")


class _CatBoost(_Booster):
    def has_own_format(self, path: Path, start: bytes) -> bool:
        if not _CATBOOST_JSON.match(start):
            return start.startswith(b"CBM1")
        return b'"scale_and_bias"' in base.read_tail(path, 4096) or b'"oblivious_trees"' in start

    def read_version(self, path: Path) -> str:
        """Return the release; a model that was built from a branch states none."""
        return base.search_content(path, _CATBOOST_VERSION).rstrip(".")

    def check_member(self, member: Member) -> Iterator[Finding]:
        if base.is_pickled(member):
            save = "model.save_model('model.cbm')"
            yield base.make_note(member, "is a pickled CatBoost model", _OWN_FORMAT + save)


XGBOOST, LIGHTGBM, CATBOOST = _XGBoost("xgboost"), _LightGBM("lightgbm"), _CatBoost("catboost")
