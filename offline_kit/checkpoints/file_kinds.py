"""Classify trained files by their bytes, without executing them or unpacking them to disk."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from offline_kit.checkpoints.pickle_opcodes import PickleSurvey, list_refused, survey_pickle
from offline_kit.checkpoints.pickle_streams import TORCH_MAGIC, once_per_content
from offline_kit.project.types import CheckpointKind as Kind

# More of a pickle inside a zip is not read: tensors lie beside it, so it is small
_PICKLE_BYTES = 256 << 20
# https://lightning.ai/docs/pytorch/stable/common/checkpointing_basic.html#what-is-a-checkpoint
_LIGHTNING = {"state_dict", "pytorch-lightning_version"}
_LFS = b"version https://git-lfs"
_HEAD = 1 << 16
_UNREAD = "a part of the pickle that could not be read"
# Numbers in ModelProto: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
_ONNX_FIELDS = frozenset({*range(1, 9), 14, 20, 25, 26})
# Wire types of protobuf: https://protobuf.dev/programming-guides/encoding/
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class ClassifiedFile:
    """What a file turned out to be."""

    kind: Kind = Kind.OTHER  # OTHER for a format that is not known, which is no fault
    refused: tuple[str, ...] = ()  # what torch.load(weights_only=True) would refuse of it.
    problem: str = ""  # why it cannot be the file that was meant; empty for a good one


@once_per_content
def classify_file(path: Path) -> ClassifiedFile:
    """Return what a file is; raises OSError if it cannot be read."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
        if not head:
            return ClassifiedFile(problem="is empty (0 bytes)")
        if head.startswith(_LFS):
            # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md: a text takes the file's place
            return ClassifiedFile(problem="is a Git LFS pointer, not the file itself: run 'git lfs pull'")
        if head.startswith(b"PK\x03\x04"):
            return _classify_zip(path)
        if head.startswith(TORCH_MAGIC):
            # torch's old format: three small pickles, then the object's, then raw storages
            stream.seek(0)
            if all(survey_pickle(stream, max_opcodes=1000).is_whole for _ in range(3)):
                return _classify_torch(survey_pickle(stream), Kind.TORCH_LEGACY)
            problem = "is cut short or damaged: torch's old format, half of it"
            return ClassifiedFile(kind=Kind.TORCH_LEGACY, problem=problem)
        if safetensors := _classify_safetensors(head, stream, size):
            return safetensors
        # A user block may precede HDF5's signature: https://docs.hdfgroup.org/hdf5/v1_14/_f_m_t3.html
        if any(head[start : start + 8] == _HDF5 for start in (0, 512, 1024, 2048)):
            return ClassifiedFile(kind=Kind.HDF5)
        return ClassifiedFile(kind=_classify_content(path.suffix.lower(), head, stream, size))


def _classify_zip(path: Path) -> ClassifiedFile:
    if not zipfile.is_zipfile(path):
        return ClassifiedFile(problem="is cut short or damaged: a zip without its end")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [name for name in names if name.count("/") <= 1 and f"/{name}".endswith("/data.pkl")]
            if pickles:
                with archive.open(pickles[0]) as stream:
                    survey = survey_pickle(io.BytesIO(stream.read(_PICKLE_BYTES)))
    except UnicodeDecodeError:
        # zipfile decodes the names when it opens an archive; torch reads the same field.
        return ClassifiedFile(problem="is damaged: a name inside of it is no UTF-8")
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        return ClassifiedFile(problem=f"is damaged: {error}")
    if pickles:
        # torch.jit.save writes constants.pkl beside data.pkl:
        # https://github.com/pytorch/pytorch/blob/main/torch/csrc/jit/docs/serialization.md
        if any((name.partition("/")[2] or name) == "constants.pkl" for name in names):
            script = "a TorchScript archive (load it with torch.jit.load)"
            return ClassifiedFile(kind=Kind.TORCH_ZIP, refused=(script,))
        return _classify_torch(survey, Kind.TORCH_ZIP)
    # A .keras file is an archive of these: https://keras.io/guides/serialization_and_saving/
    if {"config.json", "metadata.json"} <= set(names) or "model.weights.h5" in names:
        return ClassifiedFile(kind=Kind.KERAS)
    is_numpy = bool(names) and all(name.endswith(".npy") for name in names)
    return ClassifiedFile(kind=Kind.NUMPY if is_numpy else Kind.OTHER)


def _classify_torch(survey: PickleSurvey, kind: Kind) -> ClassifiedFile:
    refused = list_refused(survey) if survey.is_whole else (*list_refused(survey), _UNREAD)
    return ClassifiedFile(kind=Kind.LIGHTNING if survey.keys >= _LIGHTNING else kind, refused=refused)


def _classify_safetensors(head: bytes, stream: IO[bytes], size: int) -> ClassifiedFile | None:
    """Read a header as in https://huggingface.co/docs/safetensors/index#format."""
    if len(head) < 10 or head[8:9] != b"{":
        return None
    (length,) = struct.unpack("<Q", head[:8])
    if not 2 <= length <= 100_000_000:  # the format's own limit
        return None
    stream.seek(8)
    try:
        header = json.loads(stream.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        last_end = max(map(int, ends), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return None
    problem = "is cut short: its tensors end behind the file" if 8 + length + last_end > size else ""
    return ClassifiedFile(kind=Kind.SAFETENSORS, problem=problem)


def _classify_content(suffix: str, head: bytes, stream: IO[bytes], size: int) -> Kind:
    if head.startswith(b"\x93NUMPY"):
        return Kind.NUMPY
    # joblib writes plain pickles: only the suffix or the class of its arrays tells them apart
    if suffix == ".joblib" or (head[:1] == b"\x80" and b"joblib.numpy_pickle" in head):
        return Kind.JOBLIB
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        # Few opcodes suffice: bytes that only begin like a pickle soon make no sense
        survey = survey_pickle(io.BytesIO(head), max_opcodes=100)
        is_pickle = survey.is_whole or len(survey.opcodes) > 2
    else:
        # Protocols 0 and 1 have no mark of their own: the suffix must say so too.
        is_named = suffix in (".pkl", ".pickle", ".p")
        is_pickle = is_named and survey_pickle(io.BytesIO(head), max_opcodes=100_000).is_whole
    if is_pickle:
        return Kind.PICKLE
    return Kind.ONNX if _is_onnx(stream, size) else Kind.OTHER


def _is_onnx(stream: IO[bytes], size: int) -> bool:
    """Whether the top-level fields are those of an ONNX model, with its version, graph and operator sets."""
    stream.seek(0)
    numbers: set[int] = set()
    try:
        for number, value in read_fields(stream, size):
            if number not in _ONNX_FIELDS or (number == 1 and not 1 <= value <= 99):
                return False
            numbers.add(number)
    except ValueError:
        return False
    return numbers >= {1, 7, 8}


def read_fields(stream: IO[bytes], end: int) -> Iterator[tuple[int, int]]:
    """Yield number and value of a message's fields up to the position `end`: varints, and lengths of contents.

    After a field with a length the stream stands at its content; where the caller leaves it does not matter.
    Raises ValueError if the bytes are no message.
    """
    while stream.tell() < end:
        tag = _read_varint(stream)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            yield number, _read_varint(stream)
            continue
        if wire_type not in (_FIXED64, _LENGTH, _FIXED32):
            raise ValueError(f"unknown wire type {wire_type}")
        length = _read_varint(stream) if wire_type == _LENGTH else 8 if wire_type == _FIXED64 else 4
        field_end = stream.tell() + length
        if field_end > end:
            raise ValueError("a field ends behind its message")
        if wire_type == _LENGTH:
            yield number, length
        stream.seek(field_end)


def read_message(
    stream: IO[bytes], end: int, schema: Mapping[int, Any], into: dict[int, list[Any]]
) -> dict[int, list[Any]]:
    """Add the values of the fields in a schema (`int`, `str` or another schema) to `into`, and return that.

    All other fields are skipped unread. Raises ValueError at a damage; what precedes it is there then.
    """
    for number, value in read_fields(stream, end):
        kind = schema.get(number)
        if kind is int:
            into.setdefault(number, []).append(value)
        elif kind is str:
            into.setdefault(number, []).append(stream.read(value).decode("utf-8", "replace"))
        elif kind:
            message: dict[int, list[Any]] = {}
            into.setdefault(number, []).append(message)
            read_message(stream, stream.tell() + value, kind, message)
    return into


def _read_varint(stream: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number is cut short")
