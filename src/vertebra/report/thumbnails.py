"""Thumbnails embedded in a page, and links to the photos themselves."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image, features

from vertebra.card import Decoding
from vertebra.decoding import open_image
from vertebra.errors import ImageError
from vertebra.sources.photo_place import PhotoPlace

from .page import shown

MAX_THUMBNAILS = 1000  # of a page
MAX_BYTES = 3000  # of a thumbnail: with all of them and 6,000 names a page stays below 5 MB
MAX_ENLARGED_SIDE = 64  # pixels of the longer side: embedded whole, enlarged without interpolation
_SIDE = 160  # pixels of the longer side of a thumbnail
_QUALITIES = (55, 40, 25, 10)
NO_FILE = "#"  # the link of a photo in a shard or on a remote file system, which no browser opens


class Thumbnails:
    """Thumbnails of a page: each photo once, at most `MAX_THUMBNAILS`."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._keys: dict[PhotoPlace, int] = {}

    def add(self, path: PhotoPlace) -> int | None:
        """Add a photo and return the index of its thumbnail, or None if the page is full."""
        return self._keys.setdefault(path, len(self._keys)) if self.num_free > 0 else self.key(path)

    def key(self, path: PhotoPlace) -> int | None:
        """Return the index of a photo's thumbnail, or None."""
        return self._keys.get(path)

    @property
    def num_free(self) -> int:
        """Number of thumbnails that can still be added."""
        return MAX_THUMBNAILS - len(self._keys)

    def data(self) -> list[Any]:
        """Return for each index [data URL, width, height in pixels, whether it is the whole photo].

        None for a photo that can no longer be read.
        """
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(self._thumbnail, self._keys))

    def _thumbnail(self, path: PhotoPlace) -> list[Any] | None:
        try:
            picture = open_image(path, at_least=2 * _SIDE, decoding=self._decoding)
        except (ImageError, OSError):
            return None
        if max(picture.size) <= MAX_ENLARGED_SIDE:
            content, kind = _saved(picture, "PNG", optimize=True), "png"
        else:
            picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
            picture, content, kind = _encode(picture, MAX_BYTES)
        address = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
        return [address, *picture.size, int(kind == "png")]


def _encode(picture: Image.Image, max_bytes: int) -> tuple[Image.Image, bytes, str]:
    """Encode a picture in at most `max_bytes`, by lower quality and then by smaller size."""
    kind = "webp" if features.check("webp") else "jpeg"  # a third fewer bytes at the same quality
    options = {"method": 2} if kind == "webp" else {}
    while True:
        for quality in _QUALITIES:
            content = _saved(picture, kind.upper(), quality=quality, **options)
            if len(content) <= max_bytes:
                return picture, content, kind
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


class PhotoLinks:
    """Links to photos, relative to the folder of the page; those that are no local files have none."""

    def __init__(self, page: Path, photos: Iterable[PhotoPlace]) -> None:
        self._page = os.path.abspath(page)  # noqa: PTH100 - keeps links unresolved
        files = (path for path in photos if isinstance(path, Path))
        parents = {os.path.dirname(os.path.abspath(path)) for path in files}  # noqa: PTH100, PTH120
        try:
            self._root = os.path.commonpath(parents) if parents else self._page
        except ValueError:  # on several drives
            self._root = ""
        self.address = self.link(Path(self._root), "/") if self._root else ""

    def link(self, path: PhotoPlace, end: str = "") -> str:
        """Return the percent-encoded URL of a photo, relative to the page, or `NO_FILE`."""
        if not isinstance(path, Path):
            return NO_FILE
        try:
            relative = os.path.relpath(path, self._page)
        except ValueError:  # on another drive
            return path.absolute().as_uri()
        return quote(os.fsencode(relative.replace(os.sep, "/")), safe="/") + end

    def entry(self, path: PhotoPlace) -> tuple[str, str | None]:
        """Return a photo's text, and its URL unless that is `address` plus the text."""
        if not isinstance(path, Path):
            return shown(str(path)), NO_FILE
        name = os.path.abspath(path)  # noqa: PTH100
        inner = os.path.relpath(name, self._root).replace(os.sep, "/") if self._root else name
        text = shown(inner)
        follows = bool(self._root) and text == inner
        return text, None if follows else self.link(path)
