"""Parsing of request bodies with images: raw, multipart or JSON."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from .api_errors import ApiError
from .json_body import Data, decode_base64, in_thread_if_large, parse_json

_RAW = ("application/octet-stream", "binary/octet-stream")
_IMAGE_TYPES = (b"image/", b"application/octet-stream")
_NAMES = (b"name", b"filename")
_MAX_FIELDS = 32  # parts of a multipart body that are not images
_MAX_FIELD_BYTES = 1_000  # a longer field is ignored
_MAX_PART_HEADER = 8_192  # bytes of one header of a part
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{1,70}")
_MAX_PADDING = 64  # blanks after a boundary, which the parser skips one at a time
_EXTENDED_FILENAME = re.compile(rb";\s*filename\*\s*=\s*\"?([^;\"\s]*)", re.IGNORECASE)
_QUOTED = re.compile(rb'(?<!\*=)"(?:[^"\\]|\\.)*"')
_EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[\w-]*'((?:[^%]|%[0-9a-f]{2})*)", re.ASCII | re.IGNORECASE)


@dataclass
class Upload:
    """One image, as uploaded."""

    name: str
    data: bytes


@dataclass
class RequestContent:
    """The images and the other fields of a body."""

    images: list[Upload]
    fields: dict[str, Any] = field(default_factory=dict)


async def parse_images(content_type: str, body: bytes, max_images: int) -> RequestContent:
    """Parse the images and fields of a body.

    Raises:
        ApiError: 400 malformed, 415 unsupported Content-Type, 422 no image or too many.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        content = await in_thread_if_large(len(body), lambda: parse_multipart(content_type, body, max_images))
    elif kind == "application/json":
        content = await in_thread_if_large(len(body), lambda: _parse_json_images(body, max_images))
    elif kind.startswith("image/") or kind in _RAW:
        content = RequestContent([Upload("image", body)] if body else [])
    else:
        sent = f"{kind[:60]!r}" if kind else "nothing"
        raise ApiError(
            415,
            f"the Content-Type is {sent}; send multipart/form-data with files, image/* or "
            "application/octet-stream with one image, or application/json with base64.",
        )
    if not content.images:
        raise ApiError(422, "there is no image in the request. Send at least one file.")
    if len(content.images) > max_images:
        raise _too_many_images(max_images)
    return content


def _too_many_images(limit: int) -> ApiError:
    return ApiError(422, f"the request has more than {limit} images, the maximum. Split it into several.")


def parse_multipart(content_type: str, body: bytes, max_images: int) -> RequestContent:
    """Parse multipart/form-data (https://www.rfc-editor.org/rfc/rfc7578).

    Millions of boundaries, and blanks after them, would make the parser slow, so they are refused first.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise ApiError(400, "the multipart body has no boundary in its Content-Type. Let your client set that header.")
    delimiter = b"--" + boundary
    if delimiter not in body:
        raise ApiError(400, "the multipart body does not have the boundary that its Content-Type names.")
    if body.count(b"\r\n" + delimiter) > max_images + _MAX_FIELDS:
        raise _too_many_images(max_images)
    if re.search(re.escape(delimiter) + rb"[ \t]{%d}" % _MAX_PADDING, body):
        raise ApiError(400, f"a boundary of the multipart body is followed by {_MAX_PADDING} blanks or more.")
    form = _Form(max_images)
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.begin_part,
            "on_header_field": form.add_header_name,
            "on_header_value": form.add_header_value,
            "on_header_end": form.end_header,
            "on_part_data": form.add_data,
            "on_part_end": form.end_part,
            "on_end": form.end,
        },
        max_header_size=_MAX_PART_HEADER,
    )
    try:
        parser.write(body)
    except FormParserError as error:
        raise ApiError(400, f"the multipart body is malformed: {str(error)[:200].rstrip('.')}.") from None
    if not form.is_complete:
        raise ApiError(400, "the multipart body is cut short: its last boundary is missing.")
    return form.content


class _Form:
    """Callbacks of the parser. A part with a file name or an image type is an image; other parts are fields."""

    def __init__(self, max_images: int) -> None:
        self.content = RequestContent([])
        self.is_complete = False
        self._max_images = max_images

    def begin_part(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = self._data = b""

    def add_header_name(self, body: bytes, start: int, end: int) -> None:
        self._name += body[start:end]

    def add_header_value(self, body: bytes, start: int, end: int) -> None:
        self._value += body[start:end]

    def end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def add_data(self, body: bytes, start: int, end: int) -> None:
        self._data += body[start:end]

    def end_part(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        options = parse_options_header(disposition)[1]
        name, plain = (options[key].decode("utf-8", "replace") if key in options else None for key in _NAMES)
        extended = _extended_filename(disposition)
        filename = plain if extended is None else extended
        if filename is not None or self._headers.get(b"content-type", b"").lower().startswith(_IMAGE_TYPES):
            # A form without a chosen file sends an empty part without a file name.
            if filename or self._data:
                self.content.images.append(Upload(filename or name or "image", self._data))
        elif name is not None and len(self._data) <= _MAX_FIELD_BYTES:
            self.content.fields[name] = self._data.decode("utf-8", "replace")
        if len(self.content.images) > self._max_images:
            raise _too_many_images(self._max_images)

    def end(self) -> None:
        self.is_complete = True


def _extended_filename(disposition: bytes) -> str | None:
    """`UTF-8''na%C3%AFve.jpg` of https://www.rfc-editor.org/rfc/rfc8187, which the parser ignores, or None.

    Raises:
        ApiError: 400 malformed.
    """
    found = _EXTENDED_FILENAME.search(_QUOTED.sub(b'""', disposition))
    if found is None:
        return None
    value = found[1].decode("utf-8", "replace")
    match = _EXTENDED.fullmatch(value)
    try:
        if match is not None:
            return unquote_to_bytes(match[2]).decode(match[1])
    except ValueError:
        pass
    raise ApiError(400, f"filename* is {value[:60]!r}; write it as UTF-8''na%C3%AFve.jpg, or give a plain filename.")


def _parse_json_images(body: bytes, limit: int) -> RequestContent:
    document = parse_json(body, limit)
    entries = document.get("images")
    if not isinstance(entries, list):
        raise ApiError(422, 'the JSON body has no list "images". Send {"images": [{"name": …, "data": "<base64>"}]}.')
    if len(entries) > limit:
        raise _too_many_images(limit)
    images = []
    for number, entry in enumerate(entries):
        data = entry.get("data") if isinstance(entry, dict) else None
        name = entry.get("name", f"image {number}") if isinstance(entry, dict) else None
        if not isinstance(data, Data) or not data.is_string or not isinstance(name, str):
            raise ApiError(422, f'images[{number}] must be {{"name": text, "data": "<base64>"}}; the name is optional.')
        try:
            images.append(Upload(name, decode_base64(data)))
        except ValueError:
            raise ApiError(422, f"the data of images[{number}] is not base64.") from None
    fields = {name: value for name, value in document.items() if name != "images"}
    return RequestContent(images, fields)
