"""How many bits a file's values use, by its header: PNG's sBIT, TIFF's tags, PPM's maximum, JPEG 2000's codestream."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, Any

from PIL import Image

from vertebra.errors import ImageError
from vertebra.pillow_tiles import from_start, largest_value, rawmode_of

# TIFF 6.0: tags.
_BITS_PER_SAMPLE, _MAX_SAMPLE, _S_MAX_SAMPLE = 258, 281, 341


class DepthError(ImageError):
    """A file's lower bits cannot be read and would be needed; the message wants the file's name before it."""


@dataclass(frozen=True)
class Depth:
    """The bit depth by the header of a file that is opened and not loaded."""

    said: int | None = None  # bits that are used, by the file; 16 where Pillow has scaled them to the full range
    claimed: int | None = None  # bits by PNG's sBIT or TIFF's greatest value: true where no value is above
    colour: bool = False  # more than one channel, each of 16 bits


def depth_of(image: Image.Image, file: IO[bytes] | None) -> Depth:
    """Read the header; `file` is where the image was opened from, and is left where it stood."""
    tiles: Any = getattr(image, "tile", None)
    colour = len(image.getbands()) > 1 and ";16" in rawmode_of(image)
    if image.format == "PNG" and (colour or image.mode.startswith("I")):
        return Depth(claimed=_significant_bits(file), colour=colour)
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        bits = largest_value(tags.get(_BITS_PER_SAMPLE)) or 1
        colour = len(image.getbands()) > 1 and bits == 16
        if 8 < bits < 16:
            return Depth(said=bits)
        claims = [largest_value(tags.get(tag)) for tag in (_S_MAX_SAMPLE, _MAX_SAMPLE)]
        # Other greatest values are statistics of the picture and say nothing of its depth.
        exact = [value.bit_length() for value in claims if value is not None and value >= 255 and not value & value + 1]
        return Depth(claimed=exact[0] if exact and exact[0] < min(bits, 16) else None, colour=colour)
    if image.format == "PPM" and tiles and tiles[0].codec_name.startswith("ppm"):
        greatest = int(tiles[0].args[1])  # Pillow scales it to 65,535, or to 255 in colour
        whole = greatest == 65_535
        return Depth(said=None if whole else 16, colour=whole and len(image.getbands()) > 1)
    if image.format == "JPEG2000":
        whole = _codestream_bits(file) == 16  # fewer ones Pillow spreads over all 16
        return Depth(said=None if whole else 16, colour=whole and len(image.getbands()) > 1)
    return Depth()


def _significant_bits(file: IO[bytes] | None) -> int | None:
    """What PNG's sBIT has for the colours, where that is fewer bits than are stored; alpha has a depth of its own."""
    if file is None:
        return None
    with from_start(file):
        file.seek(8)
        for _ in range(64):  # it stands before the palette and the pixels
            head = file.read(8)
            if len(head) < 8 or head[4:] in (b"IDAT", b"PLTE"):
                return None
            (length,) = struct.unpack(">I", head[:4])
            if head[4:] == b"sBIT" and 0 < length <= 4:
                bits = max(file.read(length)[: 3 if length > 2 else 1])
                return bits if 8 <= bits < 16 else None
            file.seek(length + 4, 1)
    return None


def _codestream_bits(file: IO[bytes] | None) -> int | None:
    """Bits of JPEG 2000's first component: ISO 15444-1, A.5.1."""
    if file is None:
        return None
    with from_start(file):
        data = file.read(1 << 16)
    start = data.find(b"\xff\x4f\xff\x51")
    return (data[start + 42] & 0x7F) + 1 if 0 <= start < len(data) - 42 else None
