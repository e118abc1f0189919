"""JSON request bodies, parsed without blocking other requests.

A C parser holds the global interpreter lock while it runs: 27 MB of numbers block all threads for half a second. So the
`data` of images and tensors, which makes bodies large, is extracted first and decoded in chunks.
"""

from __future__ import annotations

import asyncio
import base64
import math
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import orjson

from vertebra.pixels import Pixels

from .api_errors import ApiError

T = TypeVar("T")

LARGE = 65_536  # bytes that can be parsed, or values that can be written, within a millisecond
_MAX_REST_BYTES = 4 * LARGE  # of a body without its data, plus _REST_BYTES_PER_DATA for each
_REST_BYTES_PER_DATA = 1024
_MAX_DATA = 10_000  # occurrences of the key "data" that are examined

_KEY = b'"data"'
_VALUE = re.compile(rb'[ \t\r\n]{0,64}:[ \t\r\n]{0,64}(["\[])')
_DATA_URL = re.compile(rb"data:[\w.+/-]{0,200};base64,")
_BLANKS = b" \t\r\n"
_NUMBERS = b"0123456789" + _BLANKS
_SPACED = bytes.maketrans(b"[]", b"  ")
_DIGITS = bytes.maketrans(b"123456789", b"000000000")


async def in_thread_if_large(size: int, work: Callable[[], T]) -> T:
    """The result of `work`, which runs in a thread if its size would block the event loop."""
    return work() if size <= LARGE else await asyncio.to_thread(work)


@dataclass(frozen=True)
class Data:
    """The position of a string (without its quotes) or an array in a body."""

    body: bytes
    start: int
    end: int
    is_string: bool

    def chunks(self) -> Iterator[bytes]:
        """Chunks of LARGE bytes."""
        for start in range(self.start, self.end, LARGE):
            yield self.body[start : min(start + LARGE, self.end)]

    def split_outside_escapes(self) -> Iterator[bytes]:
        """Chunks of a string that do not split an escape sequence, of which `\\u002b` is the longest."""
        start = self.start
        while start < self.end:
            stop = min(start + LARGE, self.end)
            if stop < self.end and (escape := self.body.rfind(b"\\", stop - 6, stop)) >= 0:
                stop = escape
            yield self.body[start:stop]
            start = stop

    def split_at_commas(self) -> Iterator[bytes]:
        """Chunks of an array, at most LARGE bytes each.

        Raises:
            ValueError: there are no commas.
        """
        start = self.start
        while self.end - start > LARGE:
            comma = self.body.rindex(b",", start, start + LARGE)
            yield self.body[start:comma]
            start = comma + 1
        yield self.body[start : self.end]


def parse_json(body: bytes, max_data: int) -> dict[str, Any]:
    """Parse a JSON object of lists of entries; their `data`, a string or an array of numbers, becomes a `Data`.

    Args:
        body: JSON.
        max_data: the expected number of `data`, by which the size of the rest is limited.

    Raises:
        ApiError: 400 not JSON, 413 too large without the data, 422 not an object.
    """
    found: dict[str, Data] = {}
    marker = secrets.token_hex(16)  # unpredictable, so that no body can contain it
    rest = _extract_data(body, marker, found)
    limit = _MAX_REST_BYTES + _REST_BYTES_PER_DATA * max_data
    if len(rest) > limit:
        raise ApiError(413, f"the JSON has {len(rest):,} bytes besides its data; at most {limit:,} are allowed.")
    try:
        document = orjson.loads(rest)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {str(error)[:200]}.") from None
    if not isinstance(document, dict):
        raise ApiError(422, f"the body is JSON of type {type(document).__name__}; it must be an object.")
    for entries in document.values():
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("data"), str):
                entry["data"] = found.get(entry["data"])
    return document


def _extract_data(body: bytes, marker: str, found: dict[str, Data]) -> bytes:
    """The body with a marked name in place of each `data`, which is added to `found` under that name."""
    parts, copied, position = [], 0, 0
    for _ in range(_MAX_DATA):
        position = body.find(_KEY, position)
        if position < 0:
            break
        value = _VALUE.match(body, position + len(_KEY))
        is_escaped = body[position - 1 : position] == b"\\"  # the end of another key: "my\"data"
        position += len(_KEY)
        if value is None or is_escaped:
            continue
        start = value.start(1)
        data = _find_string(body, start) if value[1] == b'"' else _find_array(body, start)
        if data is None:
            continue
        name = f"{marker}:{len(found)}"
        found[name] = data
        parts += [body[copied:start], f'"{name}"'.encode()]
        position = copied = data.end + data.is_string
    return b"".join([*parts, body[copied:]])


def _find_string(body: bytes, start: int) -> Data | None:
    end = body.find(b'"', start + 1)  # base64 has no quotes
    return None if end < 0 else Data(body, start + 1, end, is_string=True)


def _find_array(body: bytes, start: int) -> Data | None:
    """An array of numbers or nested arrays, up to the last bracket before a string or the end of an object."""
    stop = body.find(b'"', start)
    stop = len(body) if stop < 0 else stop
    brace = body.find(b"}", start, stop)
    end = body.rfind(b"]", start, stop if brace < 0 else brace) + 1
    if not end or body.count(b"[", start, end) != body.count(b"]", start, end):
        return None
    return Data(body, start, end, is_string=False)


def decode_base64(data: Data) -> bytes:
    """The bytes of a base64 string, which may be a data: URL.

    Raises:
        ValueError: it is not base64.
    """
    if data.body.find(b"\\", data.start, data.end) >= 0:  # some encoders write "/" as "\/", or "+" as "\u002b"
        text = b"".join(orjson.loads(b'"%s"' % chunk).encode("ascii") for chunk in data.split_outside_escapes())
        text = text.translate(None, b"\r\n")  # `base64 FILE` and Python's encodebytes insert line breaks
        data = Data(text, 0, len(text), is_string=True)
    if prefix := _DATA_URL.match(data.body, data.start, data.end):
        data = Data(data.body, prefix.end(), data.end, is_string=True)
    parts: list[bytes] = []
    for chunk in data.chunks():
        if parts and len(parts[-1]) * 4 != LARGE * 3:
            raise ValueError("there is data after the end")
        parts.append(base64.b64decode(chunk, validate=True))
    return b"".join(parts)


def parse_uint8(data: Data, shape: list[int]) -> Pixels:
    """An array of integers from 0 to 255, flat or nested as its shape.

    Raises:
        ValueError: it is not such an array.
        TypeError: there are numbers that are not integers.
    """
    pixels = np.empty(math.prod(shape), np.uint8)
    num_parsed, punctuation = 0, []
    for chunk in data.split_at_commas():
        punctuation.append(chunk.translate(None, _NUMBERS))
        if b"[" in chunk or b"]" in chunk:
            without_blanks = chunk.translate(_DIGITS, _BLANKS)
            if b"0[" in without_blanks or b"]0" in without_blanks:  # outside the innermost lists
                raise ValueError("a number is next to a list")
            chunk = chunk.translate(_SPACED)
        values = bytes(orjson.loads(b"[%s]" % chunk))  # from 0 to 255
        pixels[num_parsed : num_parsed + len(values)] = np.frombuffer(values, np.uint8)
        num_parsed += len(values)
    brackets = b",".join(punctuation)
    if num_parsed != len(pixels) or brackets not in (_brackets([len(pixels)]), _brackets(shape)):
        raise ValueError("the numbers do not have the shape")
    return pixels.reshape(shape)


def _brackets(shape: list[int]) -> bytes:
    """The brackets and commas of an array of that shape: `[[,],[,]]` for 2 × 2."""
    text = b""
    for count in reversed(shape):
        text = b"[%s]" % ((text + b",") * count)[:-1]
    return text


def encode_numbers(values: Any) -> bytes:
    """A flat array of numbers as JSON, encoded in chunks."""
    step = LARGE // 4
    chunks = (values[start : start + step] for start in range(0, len(values), step))
    return b"[%s]" % b",".join(orjson.dumps(chunk, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for chunk in chunks)
