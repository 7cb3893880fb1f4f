"""Probe files for the marks of a framework: first and last bytes, patterns, pickled estimators."""

import re
from collections.abc import Mapping
from pathlib import Path

from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.pickle_streams import read_decompressed, read_globals
from offline_kit.project.types import CheckpointKind, Finding, Member, Severity

PICKLED = (".pkl", ".pickle", ".p", ".joblib", ".jbl", ".sav")
"""Suffixes that the notebook's cells load as pickles, compressed or not."""
_PICKLES = frozenset({CheckpointKind.PICKLE, CheckpointKind.JOBLIB})
_OVERLAP = 64
"""Bytes of a chunk that are searched again with the next one: longer than any match."""
_BESIDE = ("sklearn.preprocessing._label.LabelEncoder", "sklearn.utils.")
"""Parts of scikit-learn inside of boosters' own estimators."""


def read_head(path: Path, count: int = 256) -> bytes:
    """Return the first bytes of a file; nothing for a folder."""
    if path.is_dir():
        return b""
    with path.open("rb") as stream:
        return stream.read(count)


def read_tail(path: Path, count: int = 1 << 16) -> bytes:
    """Return the last bytes of a file; nothing for a folder."""
    if path.is_dir():
        return b""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - count))
        return stream.read(count)


def search_content(path: Path, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
    """Return the first match of a short pattern in a file's content, decompressed if it is compressed."""
    carried = b""
    for chunk in read_decompressed(path):
        match = pattern.search(carried + chunk)
        # A match at the end of a chunk may continue in the next one.
        if match and match.end() < len(carried + chunk):
            return match
        carried = chunk[-_OVERLAP:]
    return None


def is_pickled(member: Member) -> bool:
    """Whether a member is a pickle, not in its library's own format."""
    return member.path.suffix.lower() in PICKLED


def is_estimator_of(path: Path, sniffed: ClassifiedFile, package: str) -> bool:
    """Whether a file is a pickled model of this package alone, and no pipeline of scikit-learn around it."""
    if path.is_dir() or sniffed.kind not in _PICKLES or path.suffix.lower() not in PICKLED:
        return False
    names = read_globals(path)
    around = [name for name in names if name.startswith("sklearn.") and not name.startswith(_BESIDE)]
    return not around and any(name.startswith(f"{package}.") for name in names)


def check_pickle_version(library: str, member: Member, versions: Mapping[str, str]) -> tuple[Finding, ...]:
    """Warn of a pickle of an older version: libraries promise to read old files in their own formats only.

    https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
    """
    saved, available = parse_release(member.version), parse_release(versions.get(library, ""))
    if not is_pickled(member) or not member.version_said or not saved or not available or saved >= available:
        return ()
    problem = f"is a pickle of {library} {member.version}, and the notebook has {versions[library]}, which may not load it"
    remedy = (
        f'save it in its own format (save_model), or add "{library}=={member.version}" to the requirements'
    )
    return (make_warning(member, problem, remedy),)


def parse_release(version: str) -> tuple[int, ...]:
    """Return major and minor version; an empty tuple for no version."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, match.groups())) if match else ()


def make_stop(member: Member, problem: str, remedy: str) -> Finding:
    """Return a finding that stops the build."""
    return Finding(severity=Severity.STOP, about=member.name, what=problem, remedy=remedy)


def make_warning(member: Member, problem: str, remedy: str) -> Finding:
    """Return a finding that warns."""
    return Finding(severity=Severity.WARN, about=member.name, what=problem, remedy=remedy)


def make_note(member: Member, problem: str, remedy: str = "") -> Finding:
    """Return a finding that informs."""
    return Finding(severity=Severity.NOTE, about=member.name, what=problem, remedy=remedy)
