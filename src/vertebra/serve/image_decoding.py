"""Decoding of uploaded images into a network's input, with limits on pixels, JPEG scans and memory."""

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

# Larger images are decoded one at a time, so that memory holds one of them instead of one per thread.
LARGE_PIXELS = 8_000_000

# A progressive JPEG of a few kilobytes may have thousands of scans and take minutes to decode. Encoders write about 10.
MAX_SCAN_PIXELS = 1_000_000_000
_USUAL_SCANS = 20
_MAX_SEGMENTS = 10_000  # a large photo has a few hundred, for its colour profile and its maker's data
_MAX_FILL = 65_536  # bytes between two segments, which Pillow skips one at a time
_SEARCH_BYTES = 2**20  # bytes searched at a time, since a search holds the interpreter lock

# JPEG markers, ITU-T T.81, table B.1: FF 00 is data of a scan, FF FF is fill, D0 to D7 are restarts within a scan.
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # segments with precision, height and width

log = logging.getLogger("vertebra.serve")
_one_large = threading.Lock()


def decode_limited(data: bytes, name: str, max_pixels: int, decoding: Decoding) -> Decoded:
    """Decode an image to upright RGB, with remarks on its file.

    Raises:
        ImageError: it is not an image, is damaged, or has too many pixels or scans.
    """
    name = display_name(name)
    _reject_excessive_scans(data, name, max_pixels)
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
    """Decode a photo to the network's input, uint8 (crop, crop, 3).

    Photos that can be decoded in more than one way are counted in `notes`; the first of each kind is logged.

    Raises:
        ImageError: as `decode_limited` does.
    """
    found = decode_limited(data, name, max_pixels, preprocessing.decoding)
    if notes is not None and notes.add(display_name(name), found.levels, found.remarks):
        single = DecodingNotes(preprocessing.decoding, served=True)
        single.add(display_name(name), found.levels, found.remarks)
        for line in single.lines():
            log.warning("%s", line)
    return DecodedImage(resize_and_crop(found.picture, preprocessing), found.picture.width, found.picture.height)


def display_name(name: str) -> str:
    """A client's file name as it is shown: the last part of the path, printable, at most 100 characters."""
    last = name.replace("\\", "/").rpartition("/")[2] or "image"
    return printable(last)[:100]


def _reject_excessive_scans(data: bytes, name: str, max_pixels: int) -> None:
    """Raise ImageError for a JPEG whose scans would take too long to decode.

    Like libjpeg, it follows the markers to the end of the image: thumbnails in segments do not count, nor what phones
    append (further images, a gain map, a video).
    """
    if not data.startswith(b"\xff\xd8"):
        return
    position, num_scans, pixels = 2, 0, 0
    for _ in range(_MAX_SEGMENTS):
        marker = _next_marker(data, position)
        if not num_scans and (marker.start() if marker else len(data)) - position > _MAX_FILL:
            break
        if marker is None:
            return
        position = marker.end()
        kind = data[position - 1]
        if kind == _END:
            return
        if kind == _START or kind < 0xC0:
            continue  # has no length
        if kind in _FRAMES and not pixels:
            height, width = (int.from_bytes(data[at : at + 2], "big") for at in (position + 3, position + 5))
            pixels = height * width
        elif kind == _SCAN:
            num_scans += 1
            if num_scans > _USUAL_SCANS and num_scans * min(pixels, max_pixels) > MAX_SCAN_PIXELS:
                raise ImageError(
                    f"{name} has {pixels:,} pixels in {num_scans:,} scans or more, which would take too long. "
                    "Save it as a baseline JPEG."
                )
        position += max(2, int.from_bytes(data[position : position + 2], "big"))
    raise ImageError(f"{name} has too many JPEG segments, or too much data between them. Save it as a baseline JPEG.")


def _next_marker(data: bytes, position: int) -> re.Match[bytes] | None:
    for start in range(position, len(data), _SEARCH_BYTES):
        if marker := _MARKER.search(data, start, start + _SEARCH_BYTES + 1):
            return marker
    return None
