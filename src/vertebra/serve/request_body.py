"""From a request's body to images: raw, multipart or JSON, within limits that hold while the body still comes in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from .api_errors import ApiError, BusyError
from .json_body import Data, base64_bytes, parse_json, unblocked
from .server_settings import Settings

Receive = Callable[[], Awaitable[Any]]

_RAW = ("application/octet-stream", "binary/octet-stream")
_MAX_PART_HEADER = 8_192
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{1,70}")
_PARAMETER = re.compile(r';\s*([\w-]+\*?)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]*))', re.ASCII)
_EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[\w-]*'((?:[^%]|%[0-9a-f]{2})*)", re.ASCII | re.IGNORECASE)


@dataclass
class Upload:
    """One image as it was sent."""

    name: str
    data: bytes


@dataclass
class RequestContent:
    """What a body holds: images, and fields beside them."""

    images: list[Upload]
    fields: dict[str, Any] = field(default_factory=dict)


class BodyReader:
    """Reads bodies; all that are in memory at a time stay below a limit."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.held = 0  # bytes

    async def read(self, receive: Receive, headers: Mapping[str, str]) -> tuple[bytes, int]:
        """The whole body, and the bytes held for it, which must be given back to `release`.

        Raises:
            ApiError: 413 too large, 408 too slow, 503 no memory for it now, 415 compressed, 400 broken off.
        """
        limit = self.settings.max_bytes
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise ApiError(415, f"the body is compressed ({encoding[:40]!r}); send it as it is.")
        announced = headers.get("content-length", "")
        expected = int(announced) if announced.isdecimal() and len(announced) < 20 else None
        if expected is not None and expected > limit:
            raise _too_large(limit)
        held = 0
        try:
            held = self._hold(expected or 0)
            async with asyncio.timeout(self.settings.read_seconds):
                message = await receive()
                body = message.get("body", b"")
                parts, size = [body], len(body)
                while message.get("more_body"):
                    message = await receive()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise _too_large(limit)
                    if size > held:
                        held += self._hold(size - held)
            if len(parts) > 1:
                body = b"".join(parts)
            if message["type"] != "http.request":
                raise ApiError(400, "the connection ended before the body did.")
            if len(body) > limit:
                raise _too_large(limit)
            if len(body) > held:
                held += self._hold(len(body) - held)
        except TimeoutError:
            self.release(held)
            raise ApiError(
                408,
                f"the body was not complete after {self.settings.read_seconds:g} seconds. Send it faster, or less.",
                {"Connection": "close"},
            ) from None
        except BaseException:
            self.release(held)
            raise
        return body, held

    def _hold(self, count: int) -> int:
        if self.held + count > self.settings.max_body_bytes:
            raise BusyError("other requests fill the memory for bodies. Try again.", 1)
        self.held += count
        return count

    def release(self, count: int) -> None:
        """So many bytes are not in memory any more."""
        self.held -= count

    async def content(self, content_type: str, body: bytes) -> RequestContent:
        """The images in a body.

        Raises:
            ApiError: 415 another kind of body, 422 none or too many images, 400 malformed.
        """
        kind, _, parameters = content_type.partition(";")
        kind = kind.strip().lower()
        if kind == "multipart/form-data":
            found = await unblocked(len(body), lambda: _multipart(f";{parameters}", body, self.settings.max_images))
        elif kind == "application/json":
            found = await unblocked(len(body), lambda: _json(body, self.settings.max_images))
        elif kind.startswith("image/") or kind in _RAW:
            found = RequestContent([Upload("image", body)] if body else [])
        else:
            sent = f"{kind[:60]!r}" if kind else "nothing"
            raise ApiError(
                415,
                f"the Content-Type is {sent}; send multipart/form-data with files, image/* or "
                "application/octet-stream with one image, or application/json with base64.",
            )
        if not found.images:
            raise ApiError(422, "there is no image in the request. Send at least one file.")
        if len(found.images) > self.settings.max_images:
            raise _too_many(self.settings.max_images)
        return found


def _too_large(limit: int) -> ApiError:
    # What still comes is not read: the connection cannot be used again.
    return ApiError(
        413,
        f"the body has more than {limit:,} bytes, the most that is taken. Send fewer images at a time.",
        {"Connection": "close"},
    )


def _too_many(limit: int) -> ApiError:
    return ApiError(422, f"there are more than {limit} images, the most of one request. Send them in several.")


# --- multipart ------------------------------------------------------------------------------------------------------


def _multipart(parameters: str, body: bytes, limit: int) -> RequestContent:
    """https://www.rfc-editor.org/rfc/rfc7578; each part with a file name, or declared as an image, is an image."""
    boundary = _parameters(parameters).get("boundary", "").encode("latin-1", "replace")
    if not _BOUNDARY.fullmatch(boundary):
        raise ApiError(400, "the multipart body has no boundary in its Content-Type. Let your client set that header.")
    # Parts are split off one by one, and no more of them than are allowed.
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary, limit + 32)
    if len(parts) < 2:
        raise ApiError(400, "the multipart body does not have the boundary that its Content-Type names.")
    content = RequestContent([])
    for number, part in enumerate(parts[1:], 1):
        if part.startswith(b"--"):
            return content
        if number == len(parts) - 1:
            break
        head, separator, data = part.partition(b"\r\n\r\n")
        if not separator or len(head) > _MAX_PART_HEADER:
            raise ApiError(400, "a part of the multipart body has no headers, or too long ones.")
        headers = _part_headers(head)
        disposition = headers.get("content-disposition", "")
        named = _parameters(disposition)
        filename = named.get("filename")
        if "filename*" in named:
            filename = _extended(named["filename*"])
        if filename is not None or headers.get("content-type", "").lower().startswith(("image/", _RAW[0])):
            # A form whose file was not chosen sends an empty part without a name.
            if filename or data:
                content.images.append(Upload(filename or named.get("name") or "image", data))
        elif "name" in named and len(data) <= 1_000:
            content.fields[named["name"]] = data.decode("utf-8", "replace")
        if len(content.images) > limit:
            raise _too_many(limit)
    if len(parts) > limit + 32:
        raise _too_many(limit)
    raise ApiError(400, "the multipart body is cut short: its last boundary is missing.")


def _part_headers(head: bytes) -> dict[str, str]:
    lines = head.decode("utf-8", "replace").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}


def _parameters(value: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for match in _PARAMETER.finditer(value):
        quoted = match[2]
        text = match[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        found.setdefault(match[1].lower(), text)
    return found


def _extended(value: str) -> str:
    """`UTF-8''na%C3%AFve.jpg` of https://www.rfc-editor.org/rfc/rfc8187.

    Raises:
        ApiError: 400 where it is written otherwise: which file is meant is not guessed.
    """
    match = _EXTENDED.fullmatch(value)
    try:
        if match is not None:
            return unquote_to_bytes(match[2]).decode(match[1])
    except ValueError:
        pass
    raise ApiError(400, f"filename* is {value[:60]!r}; write it as UTF-8''na%C3%AFve.jpg, or give a plain filename.")


# --- JSON -----------------------------------------------------------------------------------------------------------


def _json(body: bytes, limit: int) -> RequestContent:
    document = parse_json(body, limit)
    entries = document.get("images")
    if not isinstance(entries, list):
        raise ApiError(422, 'the JSON body has no list "images". Send {"images": [{"name": …, "data": "<base64>"}]}.')
    if len(entries) > limit:
        raise _too_many(limit)
    images = []
    for number, entry in enumerate(entries):
        data = entry.get("data") if isinstance(entry, dict) else None
        name = entry.get("name", f"image {number}") if isinstance(entry, dict) else None
        if not isinstance(data, Data) or not data.text or not isinstance(name, str):
            raise ApiError(422, f'images[{number}] must be {{"name": text, "data": "<base64>"}}; the name is optional.')
        try:
            images.append(Upload(name, base64_bytes(data)))
        except ValueError:
            raise ApiError(422, f"the data of images[{number}] is not base64.") from None
    fields = {name: value for name, value in document.items() if name != "images"}
    return RequestContent(images, fields)
