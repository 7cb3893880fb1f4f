"""Read protobuf messages field by field, without their compiled schema.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator, Mapping
from typing import IO, Any

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


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
