"""Fields of a protobuf message in a file, read where they lie: what is not asked for is skipped, whatever its size.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, TypeAlias

Span: TypeAlias = tuple[int, int]  # of contents that have a length: where in the file they start and end


def iter_fields(file: IO[bytes], start: int, end: int) -> Iterator[tuple[int, Any]]:
    """Each field between two places as (number, value): a whole number, 4 or 8 bytes, or a `Span`.

    The file's position may be changed between two fields.

    Raises:
        ValueError: this is no protobuf message, or it is cut short.
    """
    while start < end:
        file.seek(start)
        tag = read_varint(file)
        number, wire_type = tag >> 3, tag & 7
        value: Any
        if wire_type == 0:
            value = read_varint(file)
            start = file.tell()
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
            value = file.read(size)
            start = file.tell() if len(value) == size else end + 1
        elif wire_type == 2:
            size = read_varint(file)
            begin = file.tell()
            start = begin + size
            value = (begin, start)
        else:
            raise ValueError(f"wire type {wire_type}")
        if number == 0 or start > end:
            raise ValueError("a field that reaches beyond the end")
        yield number, value


def require_span(value: Span | int | bytes) -> Span:
    """Where the contents of a field are; a `ValueError` where it is a number."""
    if not isinstance(value, tuple):
        raise ValueError("a number where contents should be")
    return value


def read_content(file: IO[bytes], value: Span | int | bytes) -> bytes:
    """The contents of a field; raises as `require_span` does."""
    place = require_span(value)
    file.seek(place[0])
    return file.read(place[1] - place[0])


def read_varint(file: IO[bytes]) -> int:
    """A whole number as protocol buffers write it; a `ValueError` where the file ends in it, or beyond 64 bits."""
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("the end came early")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than 64 bits")


def encode_field(number: int, value: int | bytes) -> bytes:
    """A field as it stands in a message: a whole number that is not negative, or contents with their length."""
    if isinstance(value, int):
        return _encode_varint(number << 3) + _encode_varint(value)
    return _encode_varint(number << 3 | 2) + _encode_varint(len(value)) + value


def _encode_varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
