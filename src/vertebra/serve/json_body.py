"""JSON bodies of requests, parsed so that no other request is delayed.

The event loop answers everybody, and no thread of Python runs while a parser in C does: 27 MB of numbers took it half a
second. What makes a body large, the `data` of images and tensors, is therefore set aside before the rest is parsed, and
decoded in pieces.
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

LARGE = 65_536  # bytes that are parsed, or values that are written, within a millisecond
_REST = 4 * LARGE  # bytes of a JSON body beside the data in it, and more for each of these
_REST_EACH = 1024
_MAX_DATA = 10_000  # that are searched for

_KEY = b'"data"'
_VALUE = re.compile(rb'[ \t\r\n]{0,64}:[ \t\r\n]{0,64}(["\[])')
_DATA_URL = re.compile(rb"data:[\w.+/-]{0,200};base64,")
_BLANKS = b" \t\r\n"
_NUMBERS = b"0123456789" + _BLANKS
_SPACED = bytes.maketrans(b"[]", b"  ")
_DIGITS = bytes.maketrans(b"123456789", b"000000000")


async def in_thread_if_large(size: int, work: Callable[[], T]) -> T:
    """What `work` gives; by a thread where there is so much of it that the event loop would stand still."""
    return work() if size <= LARGE else await asyncio.to_thread(work)


@dataclass(frozen=True)
class Data:
    """A string (without its quotes) or an array of a body, as it was sent."""

    body: bytes
    start: int
    end: int
    text: bool

    def pieces(self) -> Iterator[bytes]:
        """All of it, LARGE bytes at a time."""
        for place in range(self.start, self.end, LARGE):
            yield self.body[place : min(place + LARGE, self.end)]

    def between_escapes(self) -> Iterator[bytes]:
        """The parts of a string, cut where no escape (`\\u002b` is the longest) is."""
        place = self.start
        while place < self.end:
            stop = min(place + LARGE, self.end)
            if stop < self.end and (escape := self.body.rfind(b"\\", stop - 6, stop)) >= 0:
                stop = escape
            yield self.body[place:stop]
            place = stop

    def between_commas(self) -> Iterator[bytes]:
        """Its parts of at most LARGE bytes, cut at commas.

        Raises:
            ValueError: there are no commas.
        """
        place = self.start
        while self.end - place > LARGE:
            comma = self.body.rindex(b",", place, place + LARGE)
            yield self.body[place:comma]
            place = comma + 1
        yield self.body[place : self.end]


def parse_json(body: bytes, data: int) -> dict[str, Any]:
    """An object whose entries, in lists, have `Data` as their `data`, where that is a string or an array of numbers.

    Args:
        body: JSON.
        data: how many `data` there may be; beside them, a body has a quarter of a megabyte at most.

    Raises:
        ApiError: 400 no JSON, 413 too much beside the data, 422 no object.
    """
    found: dict[str, Data] = {}
    mark = secrets.token_hex(16)  # nothing that was sent can be taken for it
    rest = _set_aside(body, mark, found)
    limit = _REST + _REST_EACH * data
    if len(rest) > limit:
        raise ApiError(413, f"the JSON has {len(rest):,} bytes beside the data in it, and at most {limit:,} may be.")
    try:
        document = orjson.loads(rest)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {str(error)[:200]}.") from None
    if not isinstance(document, dict):
        raise ApiError(422, f"the body is JSON, but {type(document).__name__} rather than an object.")
    for entries in document.values():
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("data"), str):
                entry["data"] = found.get(entry["data"])
    return document


def _set_aside(body: bytes, mark: str, found: dict[str, Data]) -> bytes:
    """The body with marks in the place of data."""
    parts, kept, place = [], 0, 0
    for _ in range(_MAX_DATA):
        place = body.find(_KEY, place)
        if place < 0:
            break
        value = _VALUE.match(body, place + len(_KEY))
        escaped = body[place - 1 : place] == b"\\"  # the end of another key: "my\"data"
        place += len(_KEY)
        if value is None or escaped:
            continue
        start = value.start(1)
        data = _text(body, start) if value[1] == b'"' else _array(body, start)
        if data is None:
            continue
        name = f"{mark}:{len(found)}"
        found[name] = data
        parts += [body[kept:start], f'"{name}"'.encode()]
        place = kept = data.end + data.text
    return b"".join([*parts, body[kept:]])


def _text(body: bytes, start: int) -> Data | None:
    end = body.find(b'"', start + 1)  # base64 has no quotes
    return None if end < 0 else Data(body, start + 1, end, text=True)


def _array(body: bytes, start: int) -> Data | None:
    """An array of numbers, or of such arrays: up to the last bracket before what is neither."""
    stop = body.find(b'"', start)
    stop = len(body) if stop < 0 else stop
    brace = body.find(b"}", start, stop)
    end = body.rfind(b"]", start, stop if brace < 0 else brace) + 1
    if not end or body.count(b"[", start, end) != body.count(b"]", start, end):
        return None
    return Data(body, start, end, text=False)


def base64_bytes(data: Data) -> bytes:
    """What is written in base64, perhaps as a data: URL.

    Raises:
        ValueError: it is not base64.
    """
    if data.body.find(b"\\", data.start, data.end) >= 0:  # some write "/" as "\/", or "+" as "\u002b"
        text = b"".join(orjson.loads(b'"%s"' % piece).encode("ascii") for piece in data.between_escapes())
        text = text.translate(None, b"\r\n")  # `base64 FILE` and Python's encodebytes break lines
        data = Data(text, 0, len(text), text=True)
    if prefix := _DATA_URL.match(data.body, data.start, data.end):
        data = Data(data.body, prefix.end(), data.end, text=True)
    parts: list[bytes] = []
    for piece in data.pieces():
        if parts and len(parts[-1]) * 4 != LARGE * 3:
            raise ValueError("there is something behind the end")
        parts.append(base64.b64decode(piece, validate=True))
    return b"".join(parts)


def numbers(data: Data, shape: list[int]) -> Pixels:
    """An array of whole numbers from 0 to 255, flat or nested as the shape says.

    Raises:
        ValueError: it is anything else.
        TypeError: there are numbers that are not whole.
    """
    found = np.empty(math.prod(shape), np.uint8)
    done, frame = 0, []
    for piece in data.between_commas():
        frame.append(piece.translate(None, _NUMBERS))
        if b"[" in piece or b"]" in piece:
            together = piece.translate(_DIGITS, _BLANKS)
            if b"0[" in together or b"]0" in together:  # outside of the innermost lists
                raise ValueError("a number is beside a list")
            piece = piece.translate(_SPACED)
        values = bytes(orjson.loads(b"[%s]" % piece))  # from 0 to 255
        found[done : done + len(values)] = np.frombuffer(values, np.uint8)
        done += len(values)
    brackets = b",".join(frame)
    if done != len(found) or brackets not in (_frame([len(found)]), _frame(shape)):
        raise ValueError("these are fewer numbers, or otherwise nested")
    return found.reshape(shape)


def _frame(shape: list[int]) -> bytes:
    """The brackets and commas of an array of that shape: `[[,],[,]]` for 2 × 2."""
    found = b""
    for count in reversed(shape):
        found = b"[%s]" % ((found + b",") * count)[:-1]
    return found


def json_numbers(values: Any) -> bytes:
    """A flat array of numbers as JSON, written in pieces."""
    step = LARGE // 4
    some = (values[place : place + step] for place in range(0, len(values), step))
    return b"[%s]" % b",".join(orjson.dumps(each, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for each in some)
