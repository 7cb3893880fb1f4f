"""Find every pickle in a file: plain, in zips and tars, compressed, in arrays of objects; nothing is loaded.

It also tells which libraries the pickles need: what a pipeline is made of is written in them by name.
"""

import ast
import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, partial, wraps
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar, cast

from offline_kit.checkpoints.pickle_opcodes import (
    HIDDEN_CALL,
    HIDDEN_IMPORT,
    JOBLIB_WRAPPER,
    PICKLE_NAMES,
    PickleSurvey,
    survey_pickle,
)
from offline_kit.core.files import fingerprint
from offline_kit.project.types import Checkpoint, CheckpointKind

T = TypeVar("T")
# Read of one pickle; a vocabulary of a million words has three million
_MAX_OPCODES = 500_000_000
TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""torch.save's magic number before 1.6, pickled with protocol 2."""
# Magic number, protocol version, system info, the object and its storage keys:
# https://github.com/pytorch/pytorch/blob/main/torch/serialization.py (_legacy_save)
# How many pickles torch's old format has before the raw tensors
_TORCH_PICKLES = 5
# Under these names a file may be a pickle of the oldest protocols, which no magic tells
_SUFFIXES = frozenset({".pkl", ".pickle", ".p", ".joblib", ".jbl", ".sav", ".dill"})
# joblib can compress with lz4, which the standard library cannot read.
_LZ4 = b"\x04\x22\x4d\x18"
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)
_ANY_DAMAGE = (*DAMAGE, RuntimeError, ValueError, IndexError, SyntaxError, struct.error)


def once_per_content(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Read a file once until it changes."""
    cached = lru_cache(maxsize=512)(lambda path, _fingerprint: read(path))
    return wraps(read)(lambda path: cached(path, fingerprint(path)))


@once_per_content
def read_pickles(path: Path) -> tuple[PickleSurvey, ...]:
    """Return every pickle in a file, in order; none for a file that holds no pickle.

    What cannot be read is a pickle that is not whole. Raises OSError if the file cannot be opened.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
    try:
        return tuple(_read_file(path, head))
    except (zipfile.BadZipFile, tarfile.TarError):
        return (PickleSurvey(damage="the archive is not whole"),)
    except _ANY_DAMAGE:
        return (PickleSurvey(),)


def read_globals(path: Path) -> frozenset[str]:
    """Return all names that a file's pickles would import, as "module.name"; nothing for other files."""
    return frozenset(name for pickled in read_pickles(path) for name in pickled.names)


def read_top_modules(path: Path) -> frozenset[str]:
    """Return the top-level modules that a file's pickles would import from."""
    return frozenset(name.partition(".")[0] for name in read_globals(path))


def list_pickle_packages(files: Iterable[Checkpoint]) -> tuple[str, ...]:
    """Return the known distributions whose objects these files hold, sorted; files that are no pickles have none."""
    kinds = (CheckpointKind.PICKLE, CheckpointKind.JOBLIB, CheckpointKind.OTHER)  # compressed ones too
    tops = {top for file in files if file.kind in kinds for top in read_top_modules(file.path)}
    known, other_names = PICKLE_NAMES["words"]["libraries"].split(), PICKLE_NAMES["distributions"]
    return tuple(sorted(other_names.get(top, top.replace("_", "-")) for top in tops.intersection(known)))


def list_archive(path: Path) -> list[str]:
    """Return the names in a zip; none for other and damaged files."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return []


def read_archive_member(path: Path, *endings: str, max_bytes: int = 256 << 20) -> bytes:
    """Return the first member of a zip with one of these names in any folder; nothing for other and damaged files."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if f"/{name}".endswith(tuple(f"/{ending}" for ending in endings)):
                    with archive.open(name) as stream:
                        return stream.read(max_bytes)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):
        pass  # RuntimeError: encrypted, or NotImplementedError for a compression that Python lacks
    return b""


def read_archive_json(path: Path, *endings: str) -> dict[str, Any]:
    """Return the object in the first JSON member of a zip with one of these names; empty if there is none."""
    try:
        content = json.loads(read_archive_member(path, *endings))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def read_torch_object(path: Path) -> Any:
    """Return the object in a torch file as `PickleSurvey.value` has it; None for damaged files."""
    # torch.save writes a zip since 1.6
    if zipfile.is_zipfile(path):
        return survey_pickle(io.BytesIO(read_archive_member(path, "data.pkl"))).value
    with path.open("rb") as stream:
        return [survey_pickle(stream).value for _ in range(4)][-1]


def _read_file(path: Path, head: bytes) -> Iterator[PickleSurvey]:
    if head.startswith(b"PK\x03\x04"):
        yield from _read_zip(path)
    elif head.startswith(_LZ4):
        yield PickleSurvey()
    elif not any(head.startswith(starts) for starts in _COMPRESSED.values()) and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in archive:
                # extractfile follows links inside of the archive; their targets are members of their own.
                if member.isfile() and (stream := archive.extractfile(member)):
                    yield from _read_member(member.name, partial(io.BufferedReader, cast("Any", stream)))
    else:
        with open_decompressed(path) as stream:
            yield from _read_stream(stream, path.suffixes)


def open_decompressed(path: Path) -> Any:
    """Open a file for reading, decompressed if it is compressed."""
    with path.open("rb") as stream:
        head = stream.read(64)
    open_file = next((opener for opener, starts in _COMPRESSED.items() if head.startswith(starts)), None)
    return open_file(path) if open_file else path.open("rb")


def _inflate_file(path: Path) -> IO[bytes]:
    """Decompress a zlib stream, as joblib writes it by default, as far as possible, into a temporary file."""
    machine = zlib.decompressobj()
    unpacked = cast("IO[bytes]", tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
    with path.open("rb") as packed, suppress(zlib.error):
        while chunk := packed.read(1 << 20):
            unpacked.write(machine.decompress(chunk))
        unpacked.write(machine.flush())
    unpacked.seek(0)
    return unpacked


# joblib's compressors: https://joblib.readthedocs.io/en/stable/generated/joblib.dump.html
# The older .lzma format has no magic number, only usual first bytes.
_COMPRESSED: dict[Callable[[Path], Any], tuple[bytes, ...]] = {
    gzip.open: (b"\x1f\x8b",),
    bz2.open: (b"BZh",),
    lzma.open: (b"\xfd7zXZ\x00", b"]\x00\x00"),
    _inflate_file: (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"),
}


def _read_zip(path: Path | IO[bytes]) -> Iterator[PickleSurvey]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():  # not by their names: an archive may hold one twice
            if not member.filename.endswith("/"):
                yield from _read_member(member.filename, partial(archive.open, member))


def _read_member(name: str, open_member: Callable[[], Any]) -> list[PickleSurvey]:
    try:
        with open_member() as stream:
            pickles = list(_read_stream(stream, [PurePosixPath(name).suffix]))
    except _ANY_DAMAGE:
        pickles = [PickleSurvey()]
    for pickled in pickles:
        pickled.member = name
    return pickles


def _read_stream(raw: Any, suffixes: list[str]) -> Iterator[PickleSurvey]:
    stream = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
    head = stream.peek(64)[:64]
    # A NumPy file of objects holds them as a pickle behind its header
    if head.startswith(b"\x93NUMPY"):
        if _holds_objects(stream):
            yield from _list_pickles(survey_pickle(stream, max_opcodes=_MAX_OPCODES))
    elif _begins_pickle(head):
        max_pickles = _TORCH_PICKLES if head.startswith(TORCH_MAGIC) else None
        yield from _read_sequence(stream, max_pickles)
        # What follows the pickles may be one of an old protocol
        if max_pickles is None:
            yield from _read_old_protocol(stream, is_named=False)
    elif head.startswith(b"PK\x03\x04"):
        yield from _read_zip(io.BytesIO(stream.read()))
    elif head.startswith(b"\x1f\x8b"):
        with gzip.open(stream) as unpacked:
            yield from _read_stream(unpacked, suffixes)
    else:
        is_named = bool(_SUFFIXES & {suffix.lower() for suffix in suffixes})
        yield from _read_old_protocol(stream, is_named=is_named)
        yield from _read_sequence(stream, None)


def _read_old_protocol(stream: io.BufferedReader, *, is_named: bool) -> Iterator[PickleSurvey]:
    """Read a pickle of protocol 0 or 1, whose first bytes tell nothing.

    What calls something that it imports is one, whatever the file's name is: an unpickler that meets nonsense behind
    the call has made it already. `is_named`: the file's name says so, and what reads to its end is one.
    """
    survey = survey_pickle(stream, max_opcodes=_MAX_OPCODES)
    if (survey.is_whole and is_named) or survey.has_calls:
        yield from _list_pickles(survey)


def _begins_pickle(head: bytes) -> bool:
    return head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 2


def _read_sequence(stream: io.BufferedReader, max_pickles: int | None) -> Iterator[PickleSurvey]:
    """Read pickles that follow each other, as torch's old format and several dumps into one file do."""
    count = 0
    while (max_pickles is None or count < max_pickles) and _begins_pickle(stream.peek(64)[:64]):
        start = stream.tell()
        survey = survey_pickle(stream, max_opcodes=_MAX_OPCODES)
        # joblib writes arrays raw into the pickle, where opcodes would be expected
        if JOBLIB_WRAPPER in survey.globals:
            stream.seek(start)
            survey = _survey_joblib(stream, survey)
        if not survey.is_whole:
            if survey.is_foreign:
                return
            try:
                # Nothing comes after what was read: it is cut off, and not a format that we cannot read.
                at_end = not stream.peek(1)
                survey.damage = f"the pickle ends in the middle, at byte {stream.tell()}" if at_end else ""
            except _ANY_DAMAGE:
                survey.damage = "what it is packed in ends in the middle"
        yield from _list_pickles(survey)
        if not survey.is_whole:
            return
        count += 1


def _survey_joblib(stream: io.BufferedReader, plain: PickleSurvey) -> PickleSurvey:
    """Read a joblib file without its raw arrays; `plain` is what a plain unpickler would do, which counts too."""
    survey = survey_pickle(stream, max_opcodes=_MAX_OPCODES, joblib_arrays=True)
    # Arrays read as opcodes give names that are none.
    survey.globals |= plain.globals - ({HIDDEN_IMPORT, HIDDEN_CALL} if survey.is_whole else set())
    survey.attributes |= plain.attributes
    survey.has_hidden_attributes |= not survey.is_whole
    if not survey.is_whole:
        survey.nested = plain.nested
    return survey


def _list_pickles(survey: PickleSurvey) -> Iterator[PickleSurvey]:
    """Return a pickle, and those that lie in it as bytes."""
    nested, survey.nested, survey.value = survey.nested, [], None  # only the names stay in memory
    yield survey
    for data in nested:
        # Bytes may only begin like an archive, numbers like a pickle: what is no pickle calls nothing that it imports.
        with suppress(*_ANY_DAMAGE):
            pickles = list(_read_stream(io.BytesIO(data), []))
            yield from (pickled for pickled in pickles if pickled.is_whole or pickled.names)


def _holds_objects(stream: IO[bytes]) -> bool:
    """Read the header of a NumPy file and tell whether a pickle follows, not numbers."""
    # https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html: version 1.0 has a shorter length
    magic = stream.read(8)
    length = struct.unpack("<H", stream.read(2)) if magic[6] == 1 else struct.unpack("<I", stream.read(4))
    header = ast.literal_eval(stream.read(length[0]).decode("latin1").strip())
    return "O" in str(header.get("descr", ""))
