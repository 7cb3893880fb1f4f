"""Looking into files for what tells a framework: first and last bytes, protobuf fields, pickled estimators."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from offline_kit.checkpoints import pickle_streams
from offline_kit.checkpoints.file_kinds import ClassifiedFile
from offline_kit.checkpoints.frameworks.base import read_globals
from offline_kit.project.types import CheckpointKind, Finding, Member, Severity

PICKLED = (".pkl", ".pickle", ".p", ".joblib", ".jbl", ".sav")
"""Suffixes that the fragments take for pickles; compressed ones have them too."""
_PICKLES = frozenset({CheckpointKind.PICKLE, CheckpointKind.JOBLIB})
_OVERLAP = 64
"""Bytes of a chunk that are searched again with the next one: more than any pattern matches."""
_LENGTH, _FIXED64, _FIXED32 = 2, 1, 5
_BESIDE = ("sklearn.preprocessing._label.LabelEncoder", "sklearn.utils.")
"""What estimators of the boosters hold of scikit-learn themselves."""


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
    for chunk in pickle_streams.read_decompressed(path):
        match = pattern.search(carried + chunk)
        # A match at the end of a chunk may go on in the next one.
        if match and match.end() < len(carried + chunk):
            return match
        carried = chunk[-_OVERLAP:]
    return None


def is_pickled(member: Member) -> bool:
    """Whether a member is a pickle, and not in its library's own format."""
    return member.path.suffix.lower() in PICKLED


def is_estimator_of(path: Path, sniffed: ClassifiedFile, package: str) -> bool:
    """Whether a file is a pickled model of this package alone, and no pipeline of scikit-learn around it."""
    if path.is_dir() or sniffed.kind not in _PICKLES or path.suffix.lower() not in PICKLED:
        return False
    names = read_globals(path)
    around = [name for name in names if name.startswith("sklearn.") and not name.startswith(_BESIDE)]
    return not around and any(name.startswith(f"{package}.") for name in names)


def check_pickle_version(library: str, member: Member, versions: Mapping[str, str]) -> tuple[Finding, ...]:
    """Return that a pickle was made by an older version; libraries promise this for their own formats only."""
    saved, available = parse_release(member.version), parse_release(versions.get(library, ""))
    if not is_pickled(member) or not member.version_said or not saved or not available or saved >= available:
        return ()
    problem = f"is a pickle of {library} {member.version}, and the notebook has {versions[library]}, which may not load it"
    remedy = (
        f'save it in its own format (save_model), or add "{library}=={member.version}" to the requirements'
    )
    return (make_warning(member, problem, remedy),)


def parse_release(version: str) -> tuple[int, ...]:
    """Return major and minor version; nothing for no version."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, match.groups())) if match else ()


def read_fields(stream: IO[bytes], end: int) -> Iterator[tuple[int, int]]:
    """Walk the fields of a protobuf message up to the place `end`: numbers, and values of varints or lengths.

    After a field with a length the stream stands at its content; where the caller leaves it does not
    matter. Raises ValueError where the bytes are no message.
    """
    while stream.tell() < end:
        tag = read_varint(stream)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            yield number, read_varint(stream)
        elif wire == _LENGTH:
            length = read_varint(stream)
            after = stream.tell() + length
            if after > end:
                raise ValueError("a field ends behind its message")
            yield number, length
            stream.seek(after)
        elif wire in (_FIXED64, _FIXED32):
            stream.seek(8 if wire == _FIXED64 else 4, 1)
        else:
            raise ValueError(f"unknown wire type {wire}")


def read_varint(stream: IO[bytes]) -> int:
    """Read one number of protobuf's; raises ValueError at the end of the stream."""
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number is cut short")


def read_text(stream: IO[bytes], length: int) -> str:
    """Read a string field."""
    return stream.read(length).decode("utf-8", "replace")


def make_stop(member: Member, problem: str, remedy: str) -> Finding:
    """Return a finding that stops the build."""
    return Finding(severity=Severity.STOP, about=member.name, what=problem, remedy=remedy)


def make_warning(member: Member, problem: str, remedy: str) -> Finding:
    """Return a finding that is warned of."""
    return Finding(severity=Severity.WARN, about=member.name, what=problem, remedy=remedy)


def make_note(member: Member, problem: str, remedy: str = "") -> Finding:
    """Return a finding that is told."""
    return Finding(severity=Severity.NOTE, about=member.name, what=problem, remedy=remedy)
