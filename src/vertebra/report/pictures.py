"""Small copies of photos inside a page, and links to the photos themselves."""

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

from .page import shown

MOST = 1000  # thumbnails of a page
BYTES = 3000  # of a thumbnail: with all of them and 6,000 names a page stays below 5 MB
SMALL = 64  # pixels of the longer side: shown whole, each pixel as a square
_SIDE = 160  # pixels of the longer side of a thumbnail
_QUALITIES = (55, 40, 25, 10)


class Pictures:
    """Thumbnails of a page: each photo once, and no more than a page may hold."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._keys: dict[Path, int] = {}

    def add(self, path: Path) -> int | None:
        """The number of its thumbnail; None where the page holds as many as it may."""
        return self._keys.setdefault(path, len(self._keys)) if self.room > 0 else self.key(path)

    def key(self, path: Path) -> int | None:
        """The number of its thumbnail, where it has one already."""
        return self._keys.get(path)

    @property
    def room(self) -> int:
        """How many more there may be."""
        return MOST - len(self._keys)

    def data(self) -> list[Any]:
        """Of each number: address, width, height of the thumbnail in pixels, and whether it is the whole photo.

        None where a photo cannot be read any more.
        """
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(self._thumbnail, self._keys))

    def _thumbnail(self, path: Path) -> list[Any] | None:
        try:
            picture = open_image(path, at_least=2 * _SIDE, decoding=self._decoding)
        except (ImageError, OSError):
            return None
        if max(picture.size) <= SMALL:
            content, kind = _saved(picture, "PNG", optimize=True), "png"
        else:
            picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
            picture, content, kind = _within(picture, BYTES)
        address = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
        return [address, *picture.size, int(kind == "png")]


def _within(picture: Image.Image, most: int) -> tuple[Image.Image, bytes, str]:
    """The picture in so many bytes at most: by its quality, and where that is not enough by its size."""
    kind = "webp" if features.check("webp") else "jpeg"  # at the same size a third smaller
    options = {"method": 2} if kind == "webp" else {}
    while True:
        for quality in _QUALITIES:
            content = _saved(picture, kind.upper(), quality=quality, **options)
            if len(content) <= most:
                return picture, content, kind
        picture = picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4)))


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


class Folder:
    """Where photos lie, seen from the folder that a page is written to."""

    def __init__(self, page: Path, photos: Iterable[Path]) -> None:
        self._page = os.path.abspath(page)  # noqa: PTH100 - as it is named, wherever links lead
        parents = {os.path.dirname(os.path.abspath(path)) for path in photos}  # noqa: PTH100, PTH120
        try:
            self._root = os.path.commonpath(parents) if parents else self._page
        except ValueError:  # on several drives
            self._root = ""
        self.address = self.link(Path(self._root), "/") if self._root else ""

    def link(self, path: Path, end: str = "") -> str:
        """The address of a photo, relative to the page; each byte of a name that could mean anything else is quoted."""
        try:
            relative = os.path.relpath(path, self._page)
        except ValueError:  # on another drive
            return path.absolute().as_uri()
        return quote(os.fsencode(relative.replace(os.sep, "/")), safe="/") + end

    def entry(self, path: Path) -> tuple[str, str | None]:
        """How a photo is shown, and its address where that does not follow from what is shown and `address`."""
        name = os.path.abspath(path)  # noqa: PTH100
        inner = os.path.relpath(name, self._root).replace(os.sep, "/") if self._root else name
        text = shown(inner)
        follows = bool(self._root) and text == inner
        return text, None if follows else self.link(path)
