"""What the audit measures on a decoded photo: its size, grey levels and sharpness, or why it cannot be used.

The cache has it by the SHA-256 of the file's content, so a photo is decoded once, whatever its path.
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
from PIL import Image, ImageChops, UnidentifiedImageError

from vertebra.cache import cache_dir
from vertebra.card import Decoding
from vertebra.decoding import decode, decoder_versions, open_image, stored_size
from vertebra.decoding_errors import OversizeError, UnsupportedError
from vertebra.errors import ImageError
from vertebra.file_kinds import detect_raw
from vertebra.machine import usable_cores
from vertebra.progress import Progress, silent
from vertebra.sources.photo_place import PhotoPlace
from vertebra.storage import StorageError

from .dataset import Dataset
from .sqlite_cache import SqliteCache

# Duplicates are found by two grey images of each photo: a coarse one in memory, and a thumbnail on disk.
COARSE_SIZE = 16
THUMBNAIL_SIZE = 64
Thumbnail: TypeAlias = NDArray[np.uint8]  # (64, 64)

# A JPEG of at least twice this side is decoded at reduced size: seven times faster for 12 megapixels.
_DECODED_SIDE = 256
# Raise it when the values are computed differently: cached rows of another version are ignored.
_VERSION = "5"
_COLUMNS = (
    *("version TEXT", "width INTEGER", "height INTEGER", "look BLOB", "darkest INTEGER", "lightest INTEGER"),
    *("edge REAL", "levels INTEGER", "remarks TEXT"),
)
_FIELDS = ("width", "height", "coarse_greys", "darkest", "lightest", "edge", "levels", "remarks")
_THUMBNAIL_COLUMNS = ("version TEXT", "greys BLOB")
_MEASURED_SIDE = 128  # pixels: larger photos are reduced to this shorter side before levels and edges are measured
_CHUNK_SIZE = 32  # photos per task of a thread


@dataclass(frozen=True)
class ImageInfo:
    """Measurements of one photo, or the reason why it cannot be used."""

    sha256: str = ""  # empty where the file could not be read
    width: int = 0  # pixels of the upright photo
    height: int = 0
    coarse_greys: bytes = b""  # 16 × 16 grey levels
    darkest: int = 0  # 1st percentile of the grey levels, 0 … 255
    lightest: int = 255  # 99th percentile
    edge: float = 1.0  # 99.8th percentile of the steps between neighbouring pixels, over lightest - darkest
    # "unreadable", "empty", "not an image", "not supported", "too large", "out of memory" or "damaged"
    broken: str | None = None
    reason: str = ""  # the decoder's message, without the file's name
    levels: int = 0  # as in `Decoded`
    remarks: str = ""  # as in `Decoded`, one a line


class ImageInfoCache:
    """`ImageInfo` and thumbnails by SHA-256, in one folder; safe for several threads and processes.

    Rows are valid for one decoding and decoder version. Failures are not cached: they also depend on free memory and
    on the options of libraries.
    """

    def __init__(self, folder: Path | None = None, decoding: Decoding = Decoding()) -> None:  # noqa: B008 - frozen
        self.decoding = decoding
        self._version = f"{_VERSION}, {decoder_versions()}, {decoding}"
        folder = folder or cache_dir() / "photos"
        self._infos = SqliteCache(folder / "facts.sqlite", "facts", _COLUMNS)
        self._thumbnails = SqliteCache(folder / "thumbnails.sqlite", "thumbnails", _THUMBNAIL_COLUMNS)

    def save(self) -> None:
        """Write the new rows to disk."""
        self._infos.save()
        self._thumbnails.save()

    def examine(
        self, content: bytes, digest: str | None = None, *, decode: bool = False
    ) -> tuple[ImageInfo, Image.Image | None]:
        """Return the info of a file's content and, with `decode`, its picture unless decoding failed.

        `digest` is the content's SHA-256; None: it is computed.
        """
        digest = digest or hashlib.sha256(content).hexdigest()
        info, picture = self._known(digest), None
        if info is None:
            info, picture = self._decoded(digest, content)
        if decode and info.broken is None and picture is None:
            try:
                picture = open_image(content, decoding=self.decoding)
            except ImageError as error:
                info = _failed(digest, content, error)
        return info, picture if decode else None

    def add(self, info: ImageInfo, thumbnail: Thumbnail) -> None:
        """Add what another process has found out about a photo, with the same decoder."""
        self._infos.put(info.sha256, (self._version, *(getattr(info, name) for name in _FIELDS)))
        self._thumbnails.put(info.sha256, (self._version, zlib.compress(thumbnail.tobytes(), 1)))

    def recall(self, digest: str, path: PhotoPlace) -> ImageInfo | None:
        """Return the info of a photo from the cache or its file; None if the file has changed or is gone."""
        info = self._known(digest)
        if info is None:
            content, failed = read_file(path)
            if failed is None and hashlib.sha256(content).hexdigest() == digest:
                info, _ = self.examine(content, digest)
        return info

    def _known(self, digest: str) -> ImageInfo | None:
        row = self._infos.get(digest)
        if row is None or row[0] != self._version:
            return None
        return ImageInfo(digest, **dict(zip(_FIELDS, row[1:], strict=True)))

    def thumbnail(self, digest: str, path: PhotoPlace) -> Thumbnail | None:
        """Return the thumbnail of a photo from the cache or its file; None if the file has changed or is gone."""
        row = self._thumbnails.get(digest)
        if row is None or row[0] != self._version:
            content, failed = read_file(path)
            if failed is not None or hashlib.sha256(content).hexdigest() != digest:
                return None
            try:
                return _reduced(open_image(content, at_least=_DECODED_SIDE, decoding=self.decoding).convert("L"))
            except ImageError:
                return None
        greys = np.frombuffer(zlib.decompress(row[1]), np.uint8)
        return greys.reshape(THUMBNAIL_SIZE, THUMBNAIL_SIZE)

    def _decoded(self, digest: str, content: bytes) -> tuple[ImageInfo, Image.Image | None]:
        """Decode a photo and cache its info; the picture is None if it was decoded at reduced size."""
        try:
            found = decode(content, at_least=_DECODED_SIDE, decoding=self.decoding)
        except ImageError as error:
            return _failed(digest, content, error), None
        picture = found.picture
        # Only a decoding at reduced size has another size than the file, and leaves at least 256 pixels, rounded down.
        is_small = min(picture.size) < _DECODED_SIDE - 1
        stored = picture.size if is_small else stored_size(content)
        # EXIF orientation may swap the sides; a picture of reduced size has the same ratio.
        is_rotated = (stored[0] > stored[1]) != (picture.width > picture.height) and picture.width != picture.height
        width, height = stored[::-1] if is_rotated else stored
        grey = picture.convert("L")
        thumbnail = _reduced(grey)
        sums = thumbnail.reshape(COARSE_SIZE, 4, THUMBNAIL_SIZE).sum(1, dtype=np.uint16)
        sums = sums.reshape(COARSE_SIZE, COARSE_SIZE, 4).sum(2, dtype=np.uint16)
        coarse = (sums / 16).round().astype(np.uint8)
        remarks = "\n".join(found.remarks)
        info = ImageInfo(digest, width, height, coarse.tobytes(), *_levels(grey), levels=found.levels, remarks=remarks)
        self.add(info, thumbnail)
        return info, picture if picture.size == (width, height) else None


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
    """Return `darkest`, `lightest` and `edge` of `ImageInfo`."""
    scale = min(1.0, _MEASURED_SIDE / min(grey.size))
    # The middle of a long strip is enough.
    side = 4 * min(grey.size)
    if max(grey.size) > side:
        left, top = max(0, (grey.width - side) // 2), max(0, (grey.height - side) // 2)
        grey = grey.crop((left, top, grey.width - left, grey.height - top))
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    grey = grey.resize(size, Image.Resampling.BOX)
    levels = np.array(grey.histogram())
    darkest, lightest = _quantile(levels, 0.01), _quantile(levels, 0.99)
    steps = _step_counts(grey)
    if not steps.any() or lightest == darkest:
        return darkest, lightest, 1.0
    return darkest, lightest, min(1.0, _quantile(steps, 0.998) / (lightest - darkest))


def _step_counts(grey: Image.Image) -> NDArray[np.int64]:
    """Return how often neighbouring pixels differ by 0 … 255 levels, (256,); by Pillow, five times as fast as NumPy."""
    width, height = grey.size
    counts = np.zeros(256, np.int64)
    for x, y in ((1, 0), (0, 1)):
        if width > x and height > y:
            neighbours = grey.crop((x, y, width, height)), grey.crop((0, 0, width - x, height - y))
            counts += ImageChops.difference(*neighbours).histogram()
    return counts


def _quantile(counts: NDArray[np.int64], share: float) -> int:
    """Return the level below or at which a share of the pixels is, from the counts of the levels (256,)."""
    cumulative = counts.cumsum()
    return int(np.searchsorted(cumulative, share * cumulative[-1]))


def read_file(path: PhotoPlace) -> tuple[bytes, ImageInfo | None]:
    """Read a photo's bytes; if it cannot be read, return an `ImageInfo` with the reason.

    Raises:
        StorageError: its storage cannot be reached, which says nothing about the photo.
    """
    try:
        if isinstance(path, Path) and not path.is_file():
            what = "a folder" if path.is_dir() else "a pipe or device" if path.exists() else "missing"
            return b"", ImageInfo(broken="unreadable", reason=f"is {what}")
        if raw := detect_raw(path.name):
            return b"", ImageInfo(broken="not supported", reason=raw.refusal)
        return path.read_bytes(), None
    except OSError as error:
        return b"", ImageInfo(broken="unreadable", reason=f"cannot be read ({error.strerror or error})")
    except ImageError as error:
        return b"", ImageInfo(broken="unreadable", reason=str(error).removeprefix(f"{path} ").rstrip("."))
    except StorageError as error:
        if not error.is_missing:
            raise
        return b"", ImageInfo(broken="unreadable", reason="is missing")


def read_image_info(
    dataset: Dataset,
    cache: ImageInfoCache | None = None,
    progress: Progress = silent,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> list[ImageInfo]:
    """Return the info of each photo in the data set's order; photos missing from the cache are decoded in parallel.

    `decoding` applies only without a `cache`, which has its own.
    """
    cache = cache or ImageInfoCache(decoding=decoding)
    photos = dataset.photos

    def examine(start: int) -> list[ImageInfo]:
        found = []
        for photo in photos[start : start + _CHUNK_SIZE]:
            content, failed = read_file(photo.path)
            found.append(failed or cache.examine(content)[0])
        return found

    infos: list[ImageInfo] = []
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for part in pool.map(examine, range(0, len(photos), _CHUNK_SIZE)):
                infos += part
                progress("auditing the photos", len(infos), len(photos))
    finally:
        cache.save()
    return infos
