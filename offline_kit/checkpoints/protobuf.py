"""Read protobuf messages field by field, without their schema.

Wire format: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from typing import IO

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def read_fields(stream: IO[bytes], end: int) -> Iterator[tuple[int, int]]:
    """Yield number and value of a message's fields up to the position `end`: varints, and lengths of contents.

    After a field with a length the stream stands at its content; where the caller leaves it does not matter.
    Raises ValueError if the bytes are no message.
    """
    while stream.tell() < end:
        tag = read_varint(stream)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            yield number, read_varint(stream)
            continue
        if wire_type not in (_FIXED64, _LENGTH, _FIXED32):
            raise ValueError(f"unknown wire type {wire_type}")
        length = read_varint(stream) if wire_type == _LENGTH else 8 if wire_type == _FIXED64 else 4
        field_end = stream.tell() + length
        if field_end > end:
            raise ValueError("a field ends behind its message")
        if wire_type == _LENGTH:
            yield number, length
        stream.seek(field_end)


def read_varint(stream: IO[bytes]) -> int:
    """Read one number; raise ValueError at the end of the stream."""
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
