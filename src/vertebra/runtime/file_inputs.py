"""Images given as the content of a file, or as an open file: which of these are none, and what to write."""

from __future__ import annotations

import base64
import inspect
import io
import os
import re
from typing import Any

from vertebra.decoding import Source
from vertebra.errors import UsageError
from vertebra.photo_files import HEAD_BYTES, SUFFIXES, image_format

from .input_errors import ONE_IMAGE, refusal
from .photo_download import is_url

LONGEST_PATH = 4_096  # characters


def file_content(content: bytes, where: str) -> bytes:
    """The content of a file, which is neither its path nor base64.

    Raises:
        UsageError: it is one of these; says what to write.
    """
    if image_format(content[:HEAD_BYTES]) is not None:
        return content
    start = content[:LONGEST_PATH]
    if start[:5].lower() == b"data:":
        raise UsageError(
            f"{where} is a data: URL as bytes. Write base64.b64decode(x.partition(b',')[2]) where it is base64."
        )
    plain = b"".join(start.split())
    if re.fullmatch(rb"[\w+/-]{16,}={0,2}", plain):
        ways = "urlsafe_b64decode" if re.search(b"[-_]", plain) else "b64decode"
        head = base64.b64decode(plain[:64].rstrip(b"=")[: 4 * (len(plain[:64].rstrip(b"=")) // 4)], altchars=b"-_")
        if image_format(head[:HEAD_BYTES]) is not None:
            raise UsageError(f"{where} is base64 as bytes, not the content of a file. Write base64.{ways}(x).")
    if len(content) < LONGEST_PATH and content and b"\0" not in content and b"\n" not in content:
        path = os.fsdecode(content)
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - it may be no path
        if is_url(path) or suffix in SUFFIXES or os.path.lexists(path):
            raise UsageError(
                f"{where} is {path!r} as bytes, and bytes are the content of a file. Write os.fsdecode(x) for a path."
            )
    return content


def open_file(file: Any, where: str) -> Source:
    """An open file of which bytes can be read.

    Raises:
        UsageError: it is open as text, closed, or read in another way; says what to write.
    """
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
    except TypeError as error:  # of an archive it is asked for by name
        hint = " Give a file in it: x.open(name)."
        raise refusal(file, where, ONE_IMAGE, hint) from error
    if not isinstance(content, bytes):
        raise UsageError(
            f"{where} is of the type {type(file).__name__}, whose read gives {type(content).__name__}, not bytes."
        )
    return content
