"""What is known of a photo once it has been decoded: size, looks, or why it cannot be used.

Facts are kept in the cache by the SHA-256 of the file's content, so that no photo is decoded a second time, whatever
it is called and wherever it lies.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vertebra.cache import cache_dir
from vertebra.card import Decoding
from vertebra.errors import ImageError
from vertebra.machine import usable_cores
from vertebra.pixels import FORMATS, UnsupportedError, decode, open_image

from ._dataset import Dataset, Photo
from ._shelf import Shelf

# A thumbnail in grey is what photos are compared by.
LOOK_SIZE = 16
Look: TypeAlias = NDArray[np.uint8]  # (16, 16)

# A JPEG twice as large or more is decoded coarsely: seven times sooner for a photo of 12 megapixels.
_ENOUGH = 256
_VERSION = 2  # of what is kept: another way of computing it must not meet old values
_COLUMNS = (
    *("version TEXT", "width INTEGER", "height INTEGER", "look BLOB", "broken TEXT", "reason TEXT"),
    *("levels INTEGER", "remarks TEXT"),
)


@dataclass(frozen=True)
class Facts:
    """What is known of one photo's content."""

    sha256: str = ""  # empty where the file could not be read
    width: int = 0  # pixels, as the photo stands upright
    height: int = 0
    look: bytes = b""  # 16 × 16 levels of grey
    broken: str | None = None  # "unreadable", "empty", "not an image", "not supported" or "damaged"
    reason: str = ""  # what the decoder said, without the file's name
    levels: int = 0  # and `remarks`: as `pixels.Decoded` has them, the latter with a line break between them
    remarks: str = ""


class Album:
    """The facts of all photos seen before, in one file; several threads and processes may use it.

    Facts that were found by another decoding are found anew.
    """

    def __init__(self, path: Path | None = None, decoding: Decoding = Decoding()) -> None:  # noqa: B008 - frozen
        self.decoding = decoding
        self._version = f"{_VERSION}, {decoding}"
        self._shelf = Shelf(path or cache_dir() / "photos.sqlite", "facts", _COLUMNS)

    def save(self) -> None:
        """Keep what was found since the last call."""
        self._shelf.save()

    def look_at(
        self, content: bytes, digest: str | None = None, *, decode: bool = False
    ) -> tuple[Facts, Image.Image | None]:
        """The facts of a file's content, and its picture where `decode` asks for it and it can be had.

        `digest` is the content's SHA-256, where it has been taken already.
        """
        digest = digest or hashlib.sha256(content).hexdigest()
        row = self._shelf.get(digest)
        picture = None
        if row is not None and row[0] == self._version:
            facts = Facts(digest, *row[1:])
        else:
            facts, picture = _examine(digest, content, self.decoding)
            self._shelf.put(digest, (self._version, *astuple(facts)[1:]))
        if decode and facts.broken is None and picture is None:
            picture = open_image(content, decoding=self.decoding)
        return facts, picture if decode else None


def _examine(digest: str, content: bytes, decoding: Decoding) -> tuple[Facts, Image.Image | None]:
    """Facts by decoding; with them the picture, where it was decoded in full."""
    try:
        found = decode(content, at_least=_ENOUGH, decoding=decoding)
    except ImageError as error:
        kind = "damaged"
        if not content:
            kind = "empty"
        elif isinstance(error, UnsupportedError):
            kind = "not supported"
        elif isinstance(error.__cause__, UnidentifiedImageError):
            kind = "not an image"
        reason = str(error).removeprefix(f"image of {len(content)} bytes ")
        return Facts(digest, broken=kind, reason=reason), None
    picture = found.picture
    with Image.open(io.BytesIO(content), formats=FORMATS) as header:
        stored = header.size
    # Turned by its EXIF orientation? Then the sides are exchanged; a coarse picture has the same ratio.
    turned = (stored[0] > stored[1]) != (picture.width > picture.height) and picture.width != picture.height
    width, height = stored[::-1] if turned else stored
    whole = picture.size == (width, height)
    grey = picture.convert("L").resize((LOOK_SIZE, LOOK_SIZE), Image.Resampling.BOX)
    levels, remarks = found.levels, "\n".join(found.remarks)
    facts = Facts(digest, width, height, grey.tobytes(), levels=levels, remarks=remarks)
    return facts, picture if whole else None


def read_file(path: Path) -> tuple[bytes, Facts | None]:
    """A file's bytes, or facts that say why there are none."""
    try:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "a pipe or device" if path.exists() else "missing"
            return b"", Facts(broken="unreadable", reason=f"is {what}")
        return path.read_bytes(), None
    except OSError as error:
        return b"", Facts(broken="unreadable", reason=f"cannot be read ({error.strerror or error})")


def look_through(
    dataset: Dataset,
    album: Album | None = None,
    progress: Callable[[int, int], None] | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> list[Facts]:
    """The facts of each photo, in the order of the data set. What has not been seen before is decoded, in parallel.

    Args:
        dataset: the photos.
        album: what is known already; None: the one in the cache.
        progress: called with the photos done and the photos in all.
        decoding: of the photos' files, where no album says it.
    """
    album = album or Album(decoding=decoding)
    photos = dataset.photos

    def look(part: Sequence[Photo]) -> list[Facts]:
        found = []
        for photo in part:
            content, failed = read_file(photo.path)
            found.append(failed or album.look_at(content)[0])
        return found

    facts: list[Facts] = []
    try:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for part in pool.map(look, _parts(photos, 32)):
                facts += part
                if progress is not None:
                    progress(len(facts), len(photos))
    finally:
        album.save()
    return facts


def _parts(items: Sequence[Photo], size: int) -> Iterable[Sequence[Photo]]:
    return (items[start : start + size] for start in range(0, len(items), size))
