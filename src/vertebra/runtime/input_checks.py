"""Checks of what is given as an image: wrong types are rejected, with what to write instead."""

from __future__ import annotations

import inspect
import io
import os
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np

from vertebra.decoding import Source
from vertebra.errors import UsageError
from vertebra.photo_download import is_url
from vertebra.photo_files import HEAD_BYTES, SUFFIXES, image_format

LONGEST_PATH = 4_096  # characters
ONE_IMAGE = (
    "a path, a web address, the bytes of a file, an open binary file, a vertebra.Photo, a PIL image, a NumPy array "
    "uint8 (H, W, 3) or a torch tensor uint8 (3, H, W)"
)
TABLES = ("DataFrame", "LazyFrame", "Table", "RecordBatch")
_MISSING = ("NoneType", "NAType", "NaTType")
_SEVERAL = " For several images write predict_many(x)"


def input_error(value: Any, where: str, allowed: str, hint: str = "") -> UsageError:
    """Build the error for a value that is no image, with what to write instead."""
    kind = type(value).__name__
    what = f"of the type {kind}"
    if isinstance(value, int | float | complex | np.generic) or kind in _MISSING:
        what = repr(value)[:40]
        hint = hint or (" A missing value has to be left out." if kind in _MISSING or value != value else "")
    return UsageError(f"{where} is {what}; allowed is {allowed}.{hint or _suggestion(value)}")


def _suggestion(value: Any) -> str:
    kind = type(value).__name__
    if kind in TABLES:
        return " Give its column of paths: x['path']."
    if isinstance(value, Mapping):
        return " Give the image or the path in it: x['image']."
    if isinstance(value, Set):
        return " A set has no order: write sorted(x)."
    if isinstance(value, list | tuple):
        return (
            f"{_SEVERAL}, of one flat list; for pairs of an image, or of a batch, and a label predict_many(image for "
            "image, label in pairs)."
        )
    return f"{_SEVERAL}." if kind in ("Series", "Index") or isinstance(value, Iterator) else ""


def require_file_content(content: bytes, where: str) -> bytes:
    """Return the content of a file; a `UsageError` if it is a path as bytes."""
    if image_format(content[:HEAD_BYTES]) is not None:
        return content
    if len(content) < LONGEST_PATH and content and b"\0" not in content and b"\n" not in content:
        path = os.fsdecode(content)
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - it may be no path
        if is_url(path) or suffix in SUFFIXES or os.path.lexists(path):
            raise UsageError(
                f"{where} is {path!r} as bytes, and bytes are the content of a file. Write os.fsdecode(x) for a path."
            )
    return content


def require_binary_file(file: Any, where: str) -> Source:
    """Return an open file that reads bytes, or its content; a `UsageError` for text, closed and async files."""
    if isinstance(file, io.TextIOBase):
        raise UsageError(
            f"{where} is a file that is open as text. Write open(path, 'rb') for an image, x.read().splitlines() for a "
            "list of paths."
        )
    if getattr(file, "closed", False) is True:
        raise UsageError(f"{where} is a file that has been closed. Give its path, or predict before it is closed.")
    if inspect.iscoroutinefunction(file.read):
        raise UsageError(
            f"{where} is of the type {type(file).__name__}, whose read has to be awaited. Give await x.read()."
        )
    readable = getattr(file, "readable", None)
    if callable(readable) and not readable():
        raise UsageError(f"{where} is a file that is open for writing. Write open(path, 'rb').")
    if hasattr(file, "seekable"):
        return file  # type: ignore[no-any-return]
    try:
        content = file.read()
    except TypeError as error:  # an archive, whose read takes a name
        raise input_error(file, where, ONE_IMAGE) from error
    if not isinstance(content, bytes):
        raise UsageError(
            f"{where} is of the type {type(file).__name__}, whose read gives {type(content).__name__}, not bytes."
        )
    return content
