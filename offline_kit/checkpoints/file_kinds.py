"""What a trained file is, told from its bytes; nothing of it is executed or unpacked to disk."""

import io
import json
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from offline_kit.checkpoints.pickle_opcodes import PickleSurvey, list_refused, survey_pickle
from offline_kit.project.types import CheckpointKind as Kind

_PICKLE_BYTES = 256 << 20
"""More of a pickle inside a zip is not read: tensors lie beside it, so it is small."""
_LIGHTNING = {"state_dict", "pytorch-lightning_version"}
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LFS = b"version https://git-lfs"
_HEAD = 1 << 16
_UNREAD = "a part of the pickle that could not be read"
_ONNX_WIRE = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""Field numbers of an ONNX ModelProto and their protobuf wire types."""


@dataclass(frozen=True, kw_only=True)
class ClassifiedFile:
    """What a file turned out to be."""

    kind: Kind
    """Its kind; OTHER for what we do not know, which is no fault."""
    refused: tuple[str, ...] = ()
    """What torch.load(weights_only=True) would refuse of it."""
    problem: str = ""
    """Why it cannot be the file that was meant, for a person; empty for a good one."""


def classify_file(path: Path) -> ClassifiedFile:
    """Tell what a file is; raises OSError where it cannot be read."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
        if not head:
            return ClassifiedFile(kind=Kind.OTHER, problem="is empty (0 bytes)")
        if head.startswith(_LFS):
            return ClassifiedFile(
                kind=Kind.OTHER, problem="is a Git LFS pointer, not the file itself: run 'git lfs pull'"
            )
        if head.startswith(b"PK\x03\x04"):
            return _zip(path)
        if head.startswith(_TORCH_MAGIC):
            return _legacy(stream)
        if head[257:262] == b"ustar" and (found := _tar(path)):
            return found
        if found := _safetensors(head, stream, size):
            return found
        return ClassifiedFile(kind=_by_magic(path, head, stream, size))


def _zip(path: Path) -> ClassifiedFile:
    if not zipfile.is_zipfile(path):
        return ClassifiedFile(kind=Kind.OTHER, problem="is cut short or damaged: a zip without its end")
    try:
        with zipfile.ZipFile(path) as archive:
            return _zip_content(archive)
    except (
        UnicodeDecodeError
    ):  # zipfile decodes the names when it opens an archive; torch reads the same field
        return ClassifiedFile(kind=Kind.OTHER, problem="is damaged: a name inside of it is no UTF-8")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return ClassifiedFile(kind=Kind.OTHER, problem=f"is damaged: {error}")


def _zip_content(archive: zipfile.ZipFile) -> ClassifiedFile:
    names = archive.namelist()
    inner = {name.partition("/")[2] or name for name in names}
    if pickled := next(
        (name for name in names if name.count("/") <= 1 and name.rpartition("/")[2] == "data.pkl"), ""
    ):
        with archive.open(pickled) as stream:
            said = survey_pickle(io.BytesIO(stream.read(_PICKLE_BYTES)))
        if "constants.pkl" in inner:
            return ClassifiedFile(
                kind=Kind.TORCH_ZIP, refused=("a TorchScript archive (load it with torch.jit.load)",)
            )
        return _torch(said, Kind.TORCH_ZIP)
    if {"config.json", "metadata.json"} <= set(names) or "model.weights.h5" in names:
        return ClassifiedFile(kind=Kind.KERAS)
    arrays = bool(names) and all(name.endswith(".npy") for name in names)
    return ClassifiedFile(kind=Kind.NUMPY if arrays else Kind.OTHER)


def _torch(said: PickleSurvey, kind: Kind) -> ClassifiedFile:
    lines = list_refused(said) if said.whole else (*list_refused(said), _UNREAD)
    return ClassifiedFile(kind=Kind.LIGHTNING if said.keys >= _LIGHTNING else kind, refused=lines)


def _legacy(stream: IO[bytes]) -> ClassifiedFile:
    """Read torch's old format: three small pickles, then the object's, then raw storages."""
    stream.seek(0)
    if not all(survey_pickle(stream, most=1000).whole for _ in range(3)):
        return ClassifiedFile(
            kind=Kind.TORCH_LEGACY, problem="is cut short or damaged: torch's old format, half of it"
        )
    return _torch(survey_pickle(stream), Kind.TORCH_LEGACY)


def _tar(path: Path) -> ClassifiedFile | None:
    try:
        with tarfile.open(path) as archive:
            names = set(archive.getnames())
    except (tarfile.TarError, EOFError, ValueError):
        return None
    if not {"storages", "tensors", "pickle"} <= names:
        return None
    return ClassifiedFile(kind=Kind.TORCH_LEGACY, refused=("torch's oldest format (.tar)",))


def _safetensors(head: bytes, stream: IO[bytes], size: int) -> ClassifiedFile | None:
    if len(head) < 10 or head[8:9] != b"{":
        return None
    (length,) = struct.unpack("<Q", head[:8])
    if not 2 <= length <= 100_000_000:  # the format's own limit
        return None
    stream.seek(8)
    try:
        header = json.loads(stream.read(length))
        ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
        last = max(map(int, ends), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return None
    problem = "is cut short: its tensors end behind the file" if 8 + length + last > size else ""
    return ClassifiedFile(kind=Kind.SAFETENSORS, problem=problem)


def _by_magic(path: Path, head: bytes, stream: IO[bytes], size: int) -> Kind:
    suffix = path.suffix.lower()
    if any(head[at : at + 8] == b"\x89HDF\r\n\x1a\n" for at in (0, 512, 1024, 2048)):
        return Kind.HDF5
    if head.startswith(b"\x93NUMPY"):
        return Kind.NUMPY
    if suffix == ".joblib" or (head[:1] == b"\x80" and b"joblib.numpy_pickle" in head):
        return Kind.JOBLIB
    if _is_pickle(head, suffix):
        return Kind.PICKLE
    return Kind.ONNX if _is_onnx(stream, size) else Kind.OTHER


def _is_pickle(head: bytes, suffix: str) -> bool:
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        said = survey_pickle(io.BytesIO(head), most=100)
        return said.whole or len(said.opcodes) > 2
    # Protocols 0 and 1 have no mark of their own: the suffix must say so too.
    return suffix in (".pkl", ".pickle", ".p") and survey_pickle(io.BytesIO(head), most=100_000).whole


def _is_onnx(stream: IO[bytes], size: int) -> bool:
    """Walk the top-level fields of a protobuf: an ONNX model states its version, graph and operator sets."""
    stream.seek(0)
    seen: set[int] = set()
    place = 0
    while place < size:
        tag = _varint(stream)
        if tag is None or _ONNX_WIRE.get(tag >> 3) != tag & 7:
            return False
        value = _varint(stream)
        if value is None or (tag >> 3 == 1 and not 1 <= value <= 99):
            return False
        seen.add(tag >> 3)
        place = stream.seek(value, io.SEEK_CUR) if tag & 7 else stream.tell()
    return place == size and {1, 7, 8} <= seen


def _varint(stream: IO[bytes]) -> int | None:
    result = 0
    for shift in range(0, 63, 7):
        byte = stream.read(1)
        if not byte:
            return None
        result |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return result
    return None
