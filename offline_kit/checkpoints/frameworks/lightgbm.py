"""LightGBM: models of save_model (text), and pickled boosters and estimators."""

import re
from collections.abc import Mapping
from pathlib import Path

from packaging.version import Version

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks import file_probe
from offline_kit.checkpoints.frameworks.base import SURE, Framework
from offline_kit.checkpoints.pickle_streams import read_globals
from offline_kit.project.types import Finding, Member, Severity

_FORMAT = re.compile(rb"tree\r?\nversion=v(\d+)\r?\n")
"""Version of the text format: pickles hold the text too, but not LightGBM's own version."""
_FORMAT_OF_4 = 4
"""What 4.0 and newer write; 2.3 to 3.3 write format 3, older ones format 2."""
_DUMP = b'{"name":"tree","version":"v'
_SAVE = "model.booster_.save_model('model.txt'), or model.save_model('model.txt') for a Booster"


def score_match(path: Path, sniffed: ClassifiedFile) -> float:
    """Match the text that a booster saves, its JSON dump (to explain it), and its pickles."""
    start = file_probe.read_head(path)
    own = start.startswith((b"tree\nversion=", b"tree\r\nversion=")) or _is_dump(start)
    return SURE if own or file_probe.is_estimator_of(path, sniffed, "lightgbm") else 0.0


def judge_version(trained: Version, reads: Version) -> Severity | None:
    """Warn of a newer major version only: the text is the same within one."""
    return Severity.WARN if trained.major > reads.major else None


def check_versions(member: Member, versions: Mapping[str, str]) -> tuple[Finding, ...]:
    """Warn of a pickle across version 4.0; any version reads the text of any other.

    Version 4.0 renamed attributes of Booster, so older versions load no newer pickle, and older estimators lack
    attributes that newer ones predict with; older boosters load.
    """
    available = file_probe.parse_release(versions.get("lightgbm", ""))
    if not available or not (names := read_globals(member.path)):
        return ()
    stated = file_probe.search_content(member.path, _FORMAT)
    is_new = stated is not None and int(stated[1]) >= _FORMAT_OF_4
    estimator = any(name.startswith("lightgbm.sklearn.") for name in names)
    if stated is None or is_new == (available >= (4, 0)) or not (is_new or estimator):
        return ()
    origin = "4.0 or newer" if is_new else "before 4.0"
    problem = f"holds a model pickled by LightGBM {origin}, and the notebook has {versions['lightgbm']}, which may not "
    return (
        file_probe.make_warning(
            member, f"{problem}load it or predict with it", f"save the model as text: {_SAVE}"
        ),
    )


def check_member(member: Member) -> tuple[Finding, ...]:
    """Report a dump, a text that is cut short, and how to save a pickle as text."""
    if file_probe.is_pickled(member):
        return (
            file_probe.make_note(
                member,
                "is a pickled LightGBM model, which loads with about its own version only",
                f"save it in its own format, which newer versions read too: {_SAVE}",
            ),
        )
    if _is_dump(file_probe.read_head(member.path)):
        return (
            file_probe.make_stop(
                member,
                "is a dump for people (dump_model), from which LightGBM cannot make a model again",
                f"save the model itself: {_SAVE}",
            ),
        )
    if b"end of trees" not in file_probe.read_tail(member.path, 64 << 20):
        return (
            file_probe.make_stop(
                member, "is cut short: LightGBM's text has no 'end of trees'", "copy or save the file again"
            ),
        )
    return ()


def _is_dump(start: bytes) -> bool:
    return start.replace(b" ", b"").replace(b"\n", b"").startswith(_DUMP)


LIGHTGBM = Framework(
    name="lightgbm",
    title="LightGBM",
    packages=("lightgbm", "scikit-learn", "joblib", "pandas"),
    library="lightgbm",
    score_match=score_match,
    judge_version=judge_version,
    check_member=check_member,
    check_versions=check_versions,
    task="tabular",
    param_names=("activation",),
    own_activation=True,
)
