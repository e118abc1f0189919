"""Read a file's bit depth from its header: PNG's sBIT, TIFF's tags, PPM's maximum, JPEG 2000's codestream."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, Any

from PIL import Image

from vertebra.errors import ImageError
from vertebra.pillow_tiles import first_rawmode, largest_value, rewound

# TIFF 6.0: tags.
_BITS_PER_SAMPLE, _MAX_SAMPLE, _S_MAX_SAMPLE = 258, 281, 341


class DepthError(ImageError):
    """The lower bits of a file are needed and cannot be read; the message continues the file's name."""


@dataclass(frozen=True)
class Depth:
    """The bit depth by a file's header."""

    stated_bits: int | None = None  # 16 if Pillow has scaled the values to the full range
    claimed_bits: int | None = None  # by PNG's sBIT or TIFF's maximum; false if a value is above
    has_16_bit_colour: bool = False  # more than one channel of 16 bits


def read_depth(image: Image.Image, file: IO[bytes] | None) -> Depth:
    """Read the header of an image that is opened but not loaded; the position of `file` is restored."""
    tiles: Any = getattr(image, "tile", None)
    colour = len(image.getbands()) > 1 and ";16" in first_rawmode(image)
    if image.format == "PNG" and (colour or image.mode.startswith("I")):
        return Depth(claimed_bits=_read_png_bits(file), has_16_bit_colour=colour)
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        bits = largest_value(tags.get(_BITS_PER_SAMPLE)) or 1
        colour = len(image.getbands()) > 1 and bits == 16
        if 8 < bits < 16:
            return Depth(stated_bits=bits)
        claims = [largest_value(tags.get(tag)) for tag in (_S_MAX_SAMPLE, _MAX_SAMPLE)]
        # A maximum that is not 2**bits - 1 is a statistic of the image, not its depth.
        exact = [value.bit_length() for value in claims if value is not None and value >= 255 and not value & value + 1]
        return Depth(claimed_bits=exact[0] if exact and exact[0] < min(bits, 16) else None, has_16_bit_colour=colour)
    if image.format == "PPM" and tiles and tiles[0].codec_name.startswith("ppm"):
        greatest = int(tiles[0].args[1])  # Pillow scales it to 65,535, or to 255 in colour
        whole = greatest == 65_535
        return Depth(stated_bits=None if whole else 16, has_16_bit_colour=whole and len(image.getbands()) > 1)
    if image.format == "JPEG2000":
        whole = _read_jpeg2000_bits(file) == 16  # Pillow scales fewer bits to 16
        return Depth(stated_bits=None if whole else 16, has_16_bit_colour=whole and len(image.getbands()) > 1)
    return Depth()


def _read_png_bits(file: IO[bytes] | None) -> int | None:
    """The bits of the colour channels by PNG's sBIT, if fewer than are stored; alpha may have a different depth."""
    if file is None:
        return None
    with rewound(file):
        file.seek(8)
        for _ in range(64):  # sBIT comes before the palette and the pixels
            head = file.read(8)
            if len(head) < 8 or head[4:] in (b"IDAT", b"PLTE"):
                return None
            (length,) = struct.unpack(">I", head[:4])
            if head[4:] == b"sBIT" and 0 < length <= 4:
                bits = max(file.read(length)[: 3 if length > 2 else 1])
                return bits if 8 <= bits < 16 else None
            file.seek(length + 4, 1)
    return None


def _read_jpeg2000_bits(file: IO[bytes] | None) -> int | None:
    """Bits of JPEG 2000's first component (ISO 15444-1, A.5.1)."""
    if file is None:
        return None
    with rewound(file):
        data = file.read(1 << 16)
    start = data.find(b"\xff\x4f\xff\x51")
    return (data[start + 42] & 0x7F) + 1 if 0 <= start < len(data) - 42 else None
