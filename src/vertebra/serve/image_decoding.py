"""From the bytes that a client sent to a network's input, with limits on a picture's pixels, scans and memory."""

from __future__ import annotations

import logging
import re
import threading

from vertebra.card import Decoding, Preprocessing
from vertebra.decoding import Decoded, decode
from vertebra.decoding_errors import OversizeError
from vertebra.decoding_notes import DecodingNotes
from vertebra.errors import ImageError, printable
from vertebra.pixels import resize_and_crop

from .job import DecodedImage

# Larger pictures are decoded one at a time, so that memory holds one of them and not one for each thread.
LARGE_PIXELS = 8_000_000

# A progressive JPEG may hold thousands of scans of the whole picture: kilobytes that take minutes to decode.
# Encoders write about ten.
MAX_SCAN_PIXELS = 1_000_000_000
_USUAL_SCANS = 20
_MAX_SEGMENTS = 10_000  # a large photo has some hundreds, for its profile and for what its maker adds
_MAX_FILL = 65_536  # bytes between two segments; Pillow passes them by one at a time
_SEARCH_BYTES = 2**20  # bytes searched at a time: meanwhile no other thread runs

# JPEG, ITU-T T.81, table B.1: FF 00 is a byte of a scan, FF FF fills, D0 to D7 are restarts within a scan.
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # begin with precision, height and width

log = logging.getLogger("vertebra.serve")
_one_large = threading.Lock()


def decode_limited(data: bytes, name: str, max_pixels: int, decoding: Decoding) -> Decoded:
    """An RGB picture that stands upright, and what was open to question in its file.

    Raises:
        ImageError: it is no image, is damaged, or has more pixels, or more work in it, than is allowed.
    """
    name = display_name(name)
    _check_scans(data, name, max_pixels)
    try:
        return decode(data, name=name, max_pixels=min(LARGE_PIXELS, max_pixels), decoding=decoding)
    except OversizeError:
        if max_pixels <= LARGE_PIXELS:
            raise
    with _one_large:
        return decode(data, name=name, max_pixels=max_pixels, decoding=decoding)


def network_input(
    data: bytes, name: str, preprocessing: Preprocessing, max_pixels: int, notes: DecodingNotes | None = None
) -> DecodedImage:
    """The network's input from a photo: uint8 (crop, crop, 3), with the photo's width and height.

    Photos whose decoding is open to question are counted in `notes`, and the first of each kind is logged.

    Raises:
        ImageError: as `decode_limited` does.
    """
    found = decode_limited(data, name, max_pixels, preprocessing.decoding)
    if notes is not None and notes.add(display_name(name), found.levels, found.remarks):
        alone = DecodingNotes(preprocessing.decoding, served=True)
        alone.add(display_name(name), found.levels, found.remarks)
        for line in alone.lines():
            log.warning("%s", line)
    return DecodedImage(resize_and_crop(found.picture, preprocessing), found.picture.width, found.picture.height)


def display_name(name: str) -> str:
    """A client's name for an image, fit to be repeated: the last part of a path, no control characters, not long."""
    last = name.replace("\\", "/").rpartition("/")[2] or "image"
    return printable(last).replace("\n", " ")[:100]


def _check_scans(data: bytes, name: str, max_pixels: int) -> None:
    """Refuse a JPEG whose scans, up to its end of image, would take very long.

    It goes from marker to marker as libjpeg does, so that neither a thumbnail within a segment counts, nor what
    phones put behind the picture: further pictures, a gain map, a video.
    """
    if not data.startswith(b"\xff\xd8"):
        return
    place, scans, pixels = 2, 0, 0
    for _ in range(_MAX_SEGMENTS):
        marker = _next_marker(data, place)
        if not scans and (marker.start() if marker else len(data)) - place > _MAX_FILL:
            break
        if marker is None:
            return
        place = marker.end()
        kind = data[place - 1]
        if kind == _END:
            return
        if kind == _START or kind < 0xC0:
            continue  # without a length; libjpeg looks on right behind it
        if kind in _FRAMES and not pixels:
            height, width = (int.from_bytes(data[at : at + 2], "big") for at in (place + 3, place + 5))
            pixels = height * width
        elif kind == _SCAN:
            scans += 1
            if scans > _USUAL_SCANS and scans * min(pixels, max_pixels) > MAX_SCAN_PIXELS:
                raise ImageError(
                    f"{name} has {pixels:,} pixels in {scans:,} scans or more, which would take very long. "
                    "Save it as a plain JPEG."
                )
        place += max(2, int.from_bytes(data[place : place + 2], "big"))
    raise ImageError(f"{name} has segments as no encoder writes them, too many or far apart. Save it as a plain JPEG.")


def _next_marker(data: bytes, place: int) -> re.Match[bytes] | None:
    for start in range(place, len(data), _SEARCH_BYTES):
        if marker := _MARKER.search(data, start, start + _SEARCH_BYTES + 1):
            return marker
    return None
