"""From the bytes that a client sent to a network's input, without letting one picture take the machine."""

from __future__ import annotations

import io
import logging
import threading

from PIL import Image

from vertebra.card import Decoding, Preprocessing
from vertebra.decoding_notes import DecodingNotes
from vertebra.errors import ImageError, printable
from vertebra.pixels import Decoded, OversizeError, Pixels, decode, fit

# Larger pictures are decoded one at a time, so that memory holds one of them and not one for each thread.
LARGE_PIXELS = 8_000_000

# A progressive JPEG may hold thousands of passes over the whole picture: kilobytes that take minutes to decode.
# Encoders write about ten.
MAX_SCAN_PIXELS = 1_000_000_000
_SCAN = b"\xff\xda"

log = logging.getLogger("vertebra.serve")
_one_large = threading.Lock()


class _Named(io.BytesIO):
    """Bytes that errors can call by a name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def picture(data: bytes, name: str, max_pixels: int, decoding: Decoding) -> Image.Image:
    """An RGB picture that stands upright, as `opened` gives it."""
    return opened(data, name, max_pixels, decoding).picture


def opened(data: bytes, name: str, max_pixels: int, decoding: Decoding) -> Decoded:
    """An RGB picture that stands upright, and what was open to question in its file.

    Raises:
        ImageError: it is no image, is damaged, or has more pixels, or more work in it, than is allowed.
    """
    name = shown(name)
    _check_scans(data, name, max_pixels)
    try:
        return decode(_Named(data, name), max_pixels=min(LARGE_PIXELS, max_pixels), decoding=decoding)
    except OversizeError:
        if max_pixels <= LARGE_PIXELS:
            raise
    with _one_large:
        return decode(_Named(data, name), max_pixels=max_pixels, decoding=decoding)


def network_input(
    data: bytes, name: str, preprocessing: Preprocessing, max_pixels: int, notes: DecodingNotes | None = None
) -> tuple[Pixels, int, int]:
    """What the network sees of a photo, uint8 (crop, crop, 3), and the photo's width and height.

    Photos whose decoding is open to question are counted in `notes`, and the first of each kind is logged.

    Raises:
        ImageError: as `picture` does.
    """
    found = opened(data, name, max_pixels, preprocessing.decoding)
    if notes is not None and notes.add(shown(name), found.levels, found.remarks):
        alone = DecodingNotes(preprocessing.decoding, served=True)
        alone.add(shown(name), found.levels, found.remarks)
        for line in alone.lines():
            log.warning("%s", line)
    return fit(found.picture, preprocessing), found.picture.width, found.picture.height


def shown(name: str) -> str:
    """A client's name for an image, fit to be repeated: the last part of a path, no control characters, not long."""
    last = name.replace("\\", "/").rpartition("/")[2] or "image"
    return printable(last).replace("\n", " ")[:100]


def _check_scans(data: bytes, name: str, max_pixels: int) -> None:
    if not data.startswith(b"\xff\xd8"):
        return
    scans = data.count(_SCAN)
    # A thumbnail, and an MPO's further frames, have scans of their own.
    if scans <= 20:
        return
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            pixels = image.width * image.height
    except Exception:
        return  # whatever is wrong with it is told by the one who decodes it
    if scans * min(pixels, max_pixels) > MAX_SCAN_PIXELS:
        raise ImageError(
            f"{name} has {pixels:,} pixels in {scans} passes, which would take very long. Save it as a plain JPEG."
        )
