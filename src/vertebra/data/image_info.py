"""What is known of a photo once it has been decoded: size, looks, or why it cannot be used.

It is kept in the cache by the SHA-256 of the file's content, so that no photo is decoded a second time, whatever it is
called and wherever it lies.
"""

from __future__ import annotations

import hashlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vertebra.cache import cache_dir
from vertebra.card import Decoding
from vertebra.decoding import decode, decoder, open_image, stored_size
from vertebra.decoding_errors import OversizeError, UnsupportedError
from vertebra.errors import ImageError
from vertebra.file_kinds import raw_file
from vertebra.machine import usable_cores
from vertebra.progress import Progress, silent

from .dataset import Dataset
from .sqlite_cache import SqliteCache

# Grey thumbnails are what photos are compared by: coarse ones, which are in memory, and finer ones, which are on disk.
LOOK_SIZE = 16
THUMBNAIL_SIZE = 64
Thumbnail: TypeAlias = NDArray[np.uint8]  # (64, 64)

# A JPEG twice as large or more is decoded coarsely: seven times sooner for a photo of 12 megapixels.
_ENOUGH = 256
# Of what is kept: another way of computing it must not meet old values.
_VERSION = "5"
_COLUMNS = (
    *("version TEXT", "width INTEGER", "height INTEGER", "look BLOB", "darkest INTEGER", "lightest INTEGER"),
    *("edge REAL", "levels INTEGER", "remarks TEXT"),
)
_KEPT = tuple(column.split()[0] for column in _COLUMNS[1:])
_THUMBNAIL_COLUMNS = ("version TEXT", "greys BLOB")
# Levels of grey and edges are measured on a photo of this shorter side, in pixels: larger ones are reduced to it.
_MEASURED = 128
_PART = 32  # photos that a thread examines between two reports of progress


@dataclass(frozen=True)
class ImageInfo:
    """What is known of one photo's content."""

    sha256: str = ""  # empty where the file could not be read
    width: int = 0  # pixels, as the photo stands upright
    height: int = 0
    look: bytes = b""  # 16 × 16 levels of grey
    darkest: int = 0  # level of grey, 0 … 255, that 1 % of the pixels are below
    lightest: int = 255  # that 1 % are above
    edge: float = 1.0  # step between neighbouring pixels that 0.2 % are above, as a share of lightest - darkest
    # "unreadable", "empty", "not an image", "not supported", "too large", "out of memory" or "damaged"
    broken: str | None = None
    reason: str = ""  # what the decoder said, without the file's name
    levels: int = 0  # and `remarks`: as `pixels.Decoded` has them, the latter with a line break between them
    remarks: str = ""


class ImageInfoCache:
    """The facts of all photos seen before, in one folder; several threads and processes may use it.

    Only what was decoded is kept, and found anew by another decoding or decoder. Why a photo could not be decoded
    depends on more than these: on the memory that was free, on a library's options.
    """

    def __init__(self, folder: Path | None = None, decoding: Decoding = Decoding()) -> None:  # noqa: B008 - frozen
        self.decoding = decoding
        self._version = f"{_VERSION}, {decoder()}, {decoding}"
        folder = folder or cache_dir() / "photos"
        self._facts = SqliteCache(folder / "facts.sqlite", "facts", _COLUMNS)
        self._thumbnails = SqliteCache(folder / "thumbnails.sqlite", "thumbnails", _THUMBNAIL_COLUMNS)

    def save(self) -> None:
        """Keep what was found since the last call."""
        self._facts.save()
        self._thumbnails.save()

    def examine(
        self, content: bytes, digest: str | None = None, *, decode: bool = False
    ) -> tuple[ImageInfo, Image.Image | None]:
        """The facts of a file's content, and its picture where `decode` asks for it and it can be had.

        `digest` is the content's SHA-256, where it has been taken already.
        """
        digest = digest or hashlib.sha256(content).hexdigest()
        facts, picture = self._known(digest), None
        if facts is None:
            facts, picture = self._decoded(digest, content)
        if decode and facts.broken is None and picture is None:
            try:
                picture = open_image(content, decoding=self.decoding)
            except ImageError as error:
                facts = _failed(digest, content, error)
        return facts, picture if decode else None

    def recall(self, digest: str, path: Path) -> ImageInfo | None:
        """The facts of a photo, from what is kept or from its file; None where that has changed or is gone."""
        facts = self._known(digest)
        if facts is None:
            content, failed = read_file(path)
            if failed is None and hashlib.sha256(content).hexdigest() == digest:
                facts, _ = self.examine(content, digest)
        return facts

    def _known(self, digest: str) -> ImageInfo | None:
        row = self._facts.get(digest)
        if row is None or row[0] != self._version:
            return None
        return ImageInfo(digest, **dict(zip(_KEPT, row[1:], strict=True)))

    def thumbnail(self, digest: str, path: Path) -> Thumbnail | None:
        """The thumbnail of a photo, from what is kept or from its file; None where that has changed or is gone."""
        row = self._thumbnails.get(digest)
        if row is None or row[0] != self._version:
            content, failed = read_file(path)
            if failed is not None or hashlib.sha256(content).hexdigest() != digest:
                return None
            try:
                return _reduced(open_image(content, at_least=_ENOUGH, decoding=self.decoding).convert("L"))
            except ImageError:
                return None
        greys = np.frombuffer(zlib.decompress(row[1]), np.uint8)
        return greys.reshape(THUMBNAIL_SIZE, THUMBNAIL_SIZE)

    def _decoded(self, digest: str, content: bytes) -> tuple[ImageInfo, Image.Image | None]:
        """Facts by decoding, to be kept; with them the picture, where it was decoded in full."""
        try:
            found = decode(content, at_least=_ENOUGH, decoding=self.decoding)
        except ImageError as error:
            return _failed(digest, content, error), None
        picture = found.picture
        stored = stored_size(content)
        # Turned by its EXIF orientation? Then the sides are exchanged; a coarse picture has the same ratio.
        turned = (stored[0] > stored[1]) != (picture.width > picture.height) and picture.width != picture.height
        width, height = stored[::-1] if turned else stored
        grey = picture.convert("L")
        thumbnail = _reduced(grey)
        look = thumbnail.reshape(LOOK_SIZE, 4, LOOK_SIZE, 4).mean(axis=(1, 3)).round().astype(np.uint8)
        facts = ImageInfo(
            digest, width, height, look.tobytes(), *_levels(grey), levels=found.levels, remarks="\n".join(found.remarks)
        )
        self._facts.put(digest, (self._version, *(getattr(facts, name) for name in _KEPT)))
        self._thumbnails.put(digest, (self._version, zlib.compress(thumbnail.tobytes(), 1)))
        return facts, picture if picture.size == (width, height) else None


def _failed(digest: str, content: bytes, error: ImageError) -> ImageInfo:
    kinds = {
        "empty": not content,
        "not supported": isinstance(error, UnsupportedError),
        "not an image": isinstance(error.__cause__, UnidentifiedImageError),
        "out of memory": isinstance(error.__cause__, MemoryError),
        "too large": isinstance(error, OversizeError),
        "damaged": True,
    }
    kind = next(name for name, fits in kinds.items() if fits)
    reason = str(error).removeprefix(f"image of {len(content)} bytes ")
    return ImageInfo(digest, broken=kind, reason=reason)


def _reduced(grey: Image.Image) -> Thumbnail:
    return np.asarray(grey.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BILINEAR, reducing_gap=3.0))


def _levels(grey: Image.Image) -> tuple[int, int, float]:
    """The darkest and the lightest level but for 1 % of the pixels, and the steepest step but for 0.2 %."""
    scale = min(1.0, _MEASURED / min(grey.size))
    # Of a long strip, the middle is enough.
    side = 4 * min(grey.size)
    if max(grey.size) > side:
        left, top = max(0, (grey.width - side) // 2), max(0, (grey.height - side) // 2)
        grey = grey.crop((left, top, grey.width - left, grey.height - top))
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    levels = np.asarray(grey.resize(size, Image.Resampling.BOX)).astype(np.int16)
    darkest, lightest = _quantile(levels, 0.01), _quantile(levels, 0.99)
    steps = np.concatenate([np.abs(np.diff(levels, axis=axis)).ravel() for axis in (0, 1)])
    if not len(steps) or lightest == darkest:
        return darkest, lightest, 1.0
    return darkest, lightest, min(1.0, _quantile(steps, 0.998) / (lightest - darkest))


def _quantile(values: NDArray[np.int16], share: float) -> int:
    """The least of the values, 0 … 255, that so large a share of them are no larger than."""
    counts = np.bincount(values.ravel(), minlength=256).cumsum()
    return int(np.searchsorted(counts, share * counts[-1]))


def read_file(path: Path) -> tuple[bytes, ImageInfo | None]:
    """A file's bytes, or facts that say why there are none."""
    try:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "a pipe or device" if path.exists() else "missing"
            return b"", ImageInfo(broken="unreadable", reason=f"is {what}")
        if raw := raw_file(path.name):
            return b"", ImageInfo(broken="not supported", reason=raw.refusal)
        return path.read_bytes(), None
    except OSError as error:
        return b"", ImageInfo(broken="unreadable", reason=f"cannot be read ({error.strerror or error})")


def read_image_info(
    dataset: Dataset,
    album: ImageInfoCache | None = None,
    progress: Progress = silent,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> list[ImageInfo]:
    """The facts of each photo, in the order of the data set. What the cache does not have is decoded, in parallel.

    `decoding` is that of the photos' files where there is no `album`, which has its own.
    """
    album = album or ImageInfoCache(decoding=decoding)
    photos = dataset.photos

    def examine(start: int) -> list[ImageInfo]:
        found = []
        for photo in photos[start : start + _PART]:
            content, failed = read_file(photo.path)
            found.append(failed or album.examine(content)[0])
        return found

    facts: list[ImageInfo] = []
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for part in pool.map(examine, range(0, len(photos), _PART)):
                facts += part
                progress("auditing the photos", len(facts), len(photos))
    finally:
        album.save()
    return facts
