"""Every pickle that a file holds: plain, in zips and tars, compressed, in arrays of objects; nothing is loaded."""

import ast
import bz2
import gzip
import io
import lzma
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from offline_kit.checkpoints import joblib_stream
from offline_kit.checkpoints.pickle_opcodes import CALLED, COMPUTED, PickleSurvey, survey_pickle

_MOST = 500_000_000
"""Opcodes of one pickle that are read; a vocabulary of a million words has three million."""
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_TORCH_PICKLES = 5
"""How many pickles torch's old format has before the raw tensors."""
_SUFFIXES = frozenset({".pkl", ".pickle", ".p", ".joblib", ".jbl", ".sav", ".dill"})
"""Under these names a file may be a pickle of the oldest protocols, which no magic tells."""
_ZLIB = frozenset({b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"})
_LZ4 = b"\x04\x22\x4d\x18"
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)
_DAMAGE_TOO = (RuntimeError, NotImplementedError, ValueError, IndexError, SyntaxError, struct.error)


@dataclass(frozen=True, kw_only=True)
class FilePickle:
    """One pickle of a file."""

    where: str
    """Its member's name inside an archive; empty where the file itself is the pickle."""
    globals: frozenset[str]
    """All that it would import."""
    whole: bool
    """It was read to its end."""
    cut: str = ""
    """How it ends too early, where all that is there was read: "the pickle ends in the middle, at byte 60000"."""


def read_pickles(path: Path) -> tuple[FilePickle, ...]:
    """Return every pickle of a file, in order; none for a file that holds no pickle.

    What cannot be read is a piece that is not whole. Raises OSError where the file cannot be opened.
    """
    with path.open("rb") as stream:
        head = stream.read(64)
    try:
        return tuple(_of_file(path, head))
    except (zipfile.BadZipFile, tarfile.TarError):
        return (FilePickle(where="", globals=frozenset(), whole=False, cut="the archive is not whole"),)
    except (*_DAMAGE, *_DAMAGE_TOO):
        return (FilePickle(where="", globals=frozenset(), whole=False),)


def read_decompressed(path: Path) -> Iterator[bytes]:
    """Yield the content of a file in chunks, decompressed if it is compressed, up to where it is damaged."""
    with path.open("rb") as stream:
        opened = _decompressor(stream.read(64))
    with suppress(*_DAMAGE), opened(path) if opened else path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            yield chunk


def _of_file(path: Path, head: bytes) -> Iterator[FilePickle]:
    if head.startswith(b"PK\x03\x04"):
        yield from _of_zip(path)
    elif head.startswith(_LZ4):
        yield FilePickle(where="", globals=frozenset(), whole=False)
    elif unpacked := _decompressor(head):
        with unpacked(path) as stream:
            yield from _of_stream(stream, path.suffixes)
    elif tarfile.is_tarfile(path):
        yield from _of_tar(path)
    else:
        with path.open("rb") as stream:
            yield from _of_stream(stream, [path.suffix])


def _decompressor(head: bytes) -> Callable[[Path], Any] | None:
    if head[:2] == b"\x1f\x8b":
        return gzip.open
    if head[:3] == b"BZh":
        return bz2.open
    if head[:6] == b"\xfd7zXZ\x00" or head[:3] == b"]\x00\x00":
        return lzma.open
    if head[:2] in _ZLIB:
        return _inflated
    return None


def _inflated(path: Path) -> IO[bytes]:
    """Unpack a zlib stream, as joblib writes it by default, as far as it goes, into a file of no name."""
    machine = zlib.decompressobj()
    unpacked = cast("IO[bytes]", tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
    with path.open("rb") as packed, suppress(zlib.error):
        while chunk := packed.read(1 << 20):
            unpacked.write(machine.decompress(chunk))
        unpacked.write(machine.flush())
    unpacked.seek(0)
    return unpacked


def _of_zip(path: Path | IO[bytes]) -> Iterator[FilePickle]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():  # not by their names: an archive may hold one twice
            if not member.filename.endswith("/"):
                yield from _of_member(member.filename, partial(archive.open, member))


def _of_tar(path: Path) -> Iterator[FilePickle]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and (stream := archive.extractfile(member)):
                yield from _of_member(member.name, partial(io.BufferedReader, cast("Any", stream)))


def _of_member(name: str, opened: Callable[[], Any]) -> Iterator[FilePickle]:
    try:
        with opened() as stream:
            found = list(_of_stream(stream, [PurePosixPath(name).suffix]))
    except (*_DAMAGE, *_DAMAGE_TOO):
        found = [FilePickle(where="", globals=frozenset(), whole=False)]
    for piece in found:
        yield replace(piece, where=name)


def _of_stream(raw: Any, suffixes: list[str]) -> Iterator[FilePickle]:
    stream = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
    head = stream.peek(64)[:64]
    if head.startswith(b"\x93NUMPY"):
        if _holds_objects(stream):
            yield from _pieces(survey_pickle(stream, most=_MOST))
    elif _begins_pickle(head):
        most = _TORCH_PICKLES if head.startswith(_TORCH_MAGIC) else None
        yield from _one_after_another(stream, most)
        if most is None:
            yield from _without_magic(stream, sure=False)
    elif head.startswith(b"PK\x03\x04"):
        yield from _of_zip(io.BytesIO(stream.read()))
    elif head.startswith(b"\x1f\x8b"):
        with gzip.open(stream) as unpacked:
            yield from _of_stream(unpacked, suffixes)
    else:
        yield from _without_magic(stream, sure=bool(_SUFFIXES & {suffix.lower() for suffix in suffixes}))
        yield from _one_after_another(stream, None)


def _without_magic(stream: io.BufferedReader, *, sure: bool) -> Iterator[FilePickle]:
    """Read a pickle of protocol 0 or 1, whose first bytes tell nothing.

    What calls something that it imports is one, whatever the file's name is: a loader that meets nonsense behind the
    call has made it already. `sure`: the name says so, and what reads to its end is one.
    """
    said = survey_pickle(stream, most=_MOST)
    if (said.whole and sure) or said.called:
        yield from _pieces(said)


def _begins_pickle(head: bytes) -> bool:
    return head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 2


def _one_after_another(stream: io.BufferedReader, most: int | None) -> Iterator[FilePickle]:
    """Read pickles that follow each other, as torch's old format and several dumps into one file do."""
    count = 0
    while most is None or count < most:
        if not _begins_pickle(stream.peek(64)[:64]):
            return
        start = stream.tell()
        said = survey_pickle(stream, most=_MOST)
        if joblib_stream.WRAPPER in said.globals:
            stream.seek(start)
            again = joblib_stream.read(stream)
            # What a plain load would import counts too; but arrays read as opcodes give names that are none.
            plain = said.globals - {COMPUTED, CALLED} if again.whole else said.globals
            said = PickleSurvey(
                globals=plain | again.globals,
                reached=said.reached | again.reached,
                blind=again.blind,
                whole=again.whole,
                nested=again.nested if again.whole else said.nested,
            )
        if not said.whole and len(said.opcodes) <= 2 and not said.globals:
            return  # bytes that only begin like a pickle
        first, *inner = _pieces(said)
        yield first if said.whole else replace(first, cut=_cut(stream))
        yield from inner
        if not said.whole:
            return
        count += 1


def _cut(stream: io.BufferedReader) -> str:
    """Return how a pickle ends early, where nothing comes after what was read; empty where something does."""
    try:
        return "" if stream.peek(1) else f"the pickle ends in the middle, at byte {stream.tell()}"
    except (*_DAMAGE, *_DAMAGE_TOO):
        return "what it is packed in ends in the middle"


def _pieces(said: PickleSurvey) -> Iterator[FilePickle]:
    """Return a pickle, and those that lie in it as bytes."""
    yield _piece(said)
    for data in said.nested:
        try:
            found = list(_of_stream(io.BytesIO(data), []))
        except (*_DAMAGE, *_DAMAGE_TOO):
            continue  # bytes that only begin like an archive
        # Numbers may begin like a pickle; nothing that is no pickle calls what it imports.
        yield from (piece for piece in found if piece.whole or piece.globals)


def _piece(said: PickleSurvey) -> FilePickle:
    # getattr is what old protocols name nested classes and methods by; what it gets at counts instead.
    seen = said.globals if said.blind else said.globals - {"builtins.getattr"}
    return FilePickle(where="", globals=frozenset(seen | said.reached), whole=said.whole)


def _holds_objects(stream: IO[bytes]) -> bool:
    """Read the header of a NumPy file and tell whether a pickle follows, not numbers."""
    magic = stream.read(8)
    length = struct.unpack("<H", stream.read(2)) if magic[6] == 1 else struct.unpack("<I", stream.read(4))
    header = ast.literal_eval(stream.read(length[0]).decode("latin1").strip())
    return "O" in str(header.get("descr", ""))
