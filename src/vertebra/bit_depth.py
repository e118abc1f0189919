"""Values of more than 8 bits → 8 bits: what a file says of its depth, and what it holds.

Pillow gives grey of 16 bits as it is stored, and of 16-bit colour the upper bytes alone. Where a file uses fewer bits
than it has room for, both are nearly black unless white is moved to where the file, or a person, says that it is.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImagePalette

from vertebra.errors import ImageError
from vertebra.preprocessing import Decoding

# TIFF 6.0: tags, and what they hold.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE, _COLOUR_MAP, _SAMPLE_FORMAT, _S_MAX_SAMPLE = 258, 262, 281, 320, 339, 341
_PLANES = 284
_MIN_IS_WHITE, _UNSIGNED, _SIGNED = 0, 1, 2

# Floating-point values that end above 1 and not above this may be from 0 to 1, and resized.
_OVERSHOOT = 2.0

# How values became 8 bits, where another way was possible.
STRETCHED, UNIT_FLOAT, BYTE_FLOAT, CLAIMED = "stretched", "float to 1", "float to 255", "claimed depth"


class DepthError(ImageError):
    """A file's lower bits cannot be read and would be needed; the message wants the file's name before it."""


@dataclass(frozen=True)
class Depth:
    """What a file that has been opened, and not loaded yet, says of its values."""

    said: int | None = (
        None  # bits that are used, where the file says; 16 where Pillow has scaled them to the full range
    )
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
        bits = _largest(tags.get(_BITS_PER_SAMPLE)) or 1
        colour = len(image.getbands()) > 1 and bits == 16
        if 8 < bits < 16:
            return Depth(said=bits)
        claims = [_largest(tags.get(tag)) for tag in (_S_MAX_SAMPLE, _MAX_SAMPLE)]
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


def rawmode_of(image: Image.Image) -> str:
    """How the first tile is stored, in Pillow's words; empty where the image is loaded already."""
    tiles: Any = getattr(image, "tile", None)
    return _name_of(tiles[0]) if tiles else ""


def _largest(value: Any) -> int | None:
    values = value if isinstance(value, tuple | list) else (value,)
    found = [int(v) for v in values if isinstance(v, int | float) and v == v and abs(v) < 1e9]
    return max(found) if found else None


@contextmanager
def from_start(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The file at its first byte, and where it stood once the block has ended."""
    before = file.tell()
    file.seek(0)
    try:
        yield file
    finally:
        file.seek(before)


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


def _believed(bits: int | None, greatest: int) -> int | None:
    """The depth that a file claims, or None where its values are not stored so.

    PNG has values of 12 bits spread over all 16, and its sBIT says only that they had 12 once; many writers leave them
    as they were. What was spread goes beyond 4,095, unless it is as good as black.
    """
    return bits if bits is not None and greatest < 2**bits else None


# --- grey ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scaled:
    """A picture of 8 bits."""

    image: Image.Image
    levels: int = 0  # the largest value of a file that does not say how many of its 16 bits are used; else 0
    remark: str = ""


def scaled_grey(image: Image.Image, depth: Depth, decoding: Decoding) -> Scaled:
    """Grey of more than 8 bits → 8 bits; Pillow's own conversion clips everything above 255 to white.

    Integers from 0 to 65,535 have their white at 65,535, or at `2**bits - 1` where the file says its depth or
    `decoding` does. Other integers and floating point have no agreed white: floats within 0–1 and 0–255 are taken as
    such, and anything else is stretched from its own least to its greatest value.
    """
    stored: NDArray[Any] = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    if (
        decoding.rule > 1
        and image.format == "TIFF"
        and image.mode == "I"
        and tags.get(_SAMPLE_FORMAT, (1,)) == (_UNSIGNED,)
    ):
        stored = stored.view(np.uint32)  # TIFF's unsigned values come as signed ones
    values = np.nan_to_num(stored.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    white, levels, remark = 65_535.0, 0, ""
    if image.mode == "F":
        white = 1.0 if high <= 1 else 255.0
        remark = UNIT_FLOAT if high <= 1 else BYTE_FLOAT
    if low < 0 or high > white:
        values, white, remark = values - low, high - low, STRETCHED
    elif image.mode != "F" and decoding.rule == 1:
        levels = int(high)
    elif image.mode != "F":
        bits = depth.said or _believed(depth.claimed, int(high))
        remark = CLAIMED if bits and not depth.said else ""
        levels = 0 if bits else int(high)
        white = float(2 ** (bits or decoding.bits or 16) - 1)
    grey = np.rint(np.minimum(values * (255.0 / white), 255.0)).astype(np.uint8)
    if decoding.rule > 1:
        if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE:
            grey = 255 - grey  # Pillow turns 8 bits, and not 16
        key = image.info.get("transparency")
        if image.format == "PNG" and isinstance(key, int) and (stored != key).any():
            grey[stored == key] = 255  # transparent, on white
    return Scaled(Image.fromarray(grey), levels, remark)


def check_scale(image: Image.Image, decoding: Decoding) -> None:
    """Refuse a picture in memory, from no file, whose values may have another white than `scaled_grey` takes.

    Pillow's `convert("I")` leaves white at 255, where integers of a file have it at 65,535.

    Raises:
        DepthError: says what to write.
    """
    if not (image.mode.startswith("I") or image.mode == "F"):
        return
    values: NDArray[Any] = np.asarray(image)
    if not np.isfinite(values).all():
        raise DepthError("has values that are NaN or infinite")
    low, high = values.min(), values.max()
    what, whole = f"is a PIL image of mode {image.mode} with values from {low:,.6g} to {high:,.6g}", image.mode != "F"
    if low < 0 or high > (65_535 if whole else 255):
        raise DepthError(
            f"{what}, which have no agreed white. Scale them to 0 to 255 and write x.convert('L'); from the least to "
            f"the greatest that is x.point(lambda v: v * {255 / (float(high) - float(low) or 1.0):.6g} + "
            f"{-255 * float(low) / (float(high) - float(low) or 1.0):.6g}).convert('L')"
        )
    if whole and 0 < high <= 255 and decoding.bits != 8:
        raise DepthError(
            f"{what}, nearly black where white is 65,535. Write x.convert('L') where white is 255, "
            "x.point(lambda v: v / 257).convert('L') where it is 65,535"
        )
    if not whole and 1 < high <= _OVERSHOOT:
        raise DepthError(
            f"{what}: from 0 to 1 and beyond as resizing may leave them, or nearly black from 0 to 255. Write "
            "x.point(lambda v: v * 255).convert('L') where white is 1, x.convert('L') where it is 255"
        )


def is_signed_byte(image: Image.Image) -> bool:
    """Whether Pillow takes values from -128 to 127 for such from 0 to 255."""
    tags: Any = getattr(image, "tag_v2", {})
    return image.mode == "L" and tags.get(_SAMPLE_FORMAT) == (_SIGNED,)


def scaled_bytes(image: Image.Image) -> Scaled:
    """Signed bytes → 0 to 255: as they are where none is negative, else stretched as other signed values are."""
    values = np.asarray(image).view(np.int8)
    if values.min() >= 0:
        return Scaled(image)
    return scaled_grey(Image.fromarray(values.astype(np.int32)), Depth(), Decoding())


# --- colour ----------------------------------------------------------------------------------------------------------


def scaled_colour(image: Image.Image, file: IO[bytes] | None, depth: Depth, decoding: Decoding) -> Scaled:
    """A loaded picture whose file has 16 bits a channel → 8 bits, from all its bits where the upper 8 are too few.

    Raises:
        DepthError: its lower bits cannot be read, and white is below 65,535.
    """
    colours = [band for band in image.getbands() if band != "A"]
    extremes: list[Any] = [image.getchannel(band).getextrema() for band in colours]
    upper = max(int(greatest) for _, greatest in extremes)
    # Pillow cuts the lower bytes off, but of portable maps it rounds.
    greatest = upper << 8 | 255 if image.format != "PPM" else max(255, 257 * upper - 128)
    if decoding.rule == 1:
        return Scaled(image, greatest)
    claimed = _believed(depth.claimed, greatest)
    bits = claimed or decoding.bits or 16
    levels, remark = (0, CLAIMED) if claimed else (greatest, "")
    key = image.info.get("transparency")
    if bits == 16 and not isinstance(key, tuple):
        return Scaled(image, levels, remark)
    values = _whole_values(image, file, bits)
    scaled = image
    if bits < 16:
        grey = np.rint(np.minimum(values * (255.0 / (2**bits - 1)), 255.0)).astype(np.uint8)
        if image.mode == "RGBA" and values[..., -1].max() >= 2**bits:
            grey[..., -1] = np.asarray(image)[..., -1]  # alpha uses all 16
        scaled = Image.fromarray(grey, image.mode)
    if isinstance(key, tuple):  # the colour that is transparent, in 16 bits
        scaled = scaled.convert("RGB") if bits < 16 else Image.fromarray(np.asarray(image))
        scaled.putalpha(Image.fromarray(np.where((values == key).all(axis=-1), 0, 255).astype(np.uint8)))
    return Scaled(scaled, levels, remark)


def _whole_values(image: Image.Image, file: IO[bytes] | None, bits: int) -> NDArray[np.uint16]:
    """(H, W, C), read a second time: Pillow's decoders give upper bytes or lower ones."""
    refusal = DepthError(
        f"has 16-bit colours of which only the upper 8 bits can be read here, and it is black where {bits} bits are "
        "used. Save it as a PNG, or as a TIFF without premultiplied alpha"
    )
    if file is None:
        raise refusal
    with from_start(file), Image.open(file, formats=[image.format or ""]) as probe:
        fix_misread_tiff(probe)
        tiles: Any = getattr(probe, "tile", [])
        names = {_name_of(tile) for tile in tiles}
        by_planes = len(tiles) == 1 and getattr(probe, "tag_v2", {}).get(_PLANES) == 2  # by libtiff, in its own way
    if names == {"LA;16B"}:
        # Four bytes a pixel: the upper and the lower of grey, then of alpha.
        both = np.asarray(reopened(file, image, {"LA;16B": "RGBA"}, mode="RGBA")).astype(np.uint16)
        grey, alpha = (both[..., i] << 8 | both[..., i + 1] for i in (0, 2))
        return np.stack([grey, grey, grey, alpha], axis=-1)
    if image.format == "PPM" and tiles[0].codec_name == "ppm":
        raw = [[tiles[0]._replace(codec_name="raw", args=(f"RGB;16{end}", 0, 1))] for end in "BL"]
        upper, lower = (reopened(file, image, {}, tiles=tile) for tile in raw)
    elif names and not by_planes and all(name[-4:-1] == ";16" and "a" not in name for name in names):
        ends = "BL" if sys.byteorder == "big" else "LB"  # N is the machine's order, whose upper byte L or B has
        other = {"B": "L", "L": "B", "N": ends[1]}
        upper, lower = image, reopened(file, image, {name: name[:-1] + other[name[-1]] for name in names})
    else:
        raise refusal
    whole: NDArray[np.uint16] = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
    return whole


def reopened(
    file: IO[bytes], image: Image.Image, rawmodes: dict[str, str], *, mode: str | None = None, tiles: Any = None
) -> Image.Image:
    """The picture of a file once more, its bytes taken in another way."""
    with from_start(file), Image.open(file, formats=[image.format or ""]) as again:
        fix_misread_tiff(again)
        if mode is not None:
            again._mode = mode
        again.tile = tiles or [_renamed(tile, rawmodes) for tile in again.tile]
        again.load()
        return again


def _name_of(tile: Any) -> str:
    return str(tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args or "")


def _renamed(tile: Any, rawmodes: dict[str, str]) -> Any:
    name = rawmodes.get(_name_of(tile), _name_of(tile))
    return tile._replace(args=(name, *tile.args[1:]) if isinstance(tile.args, tuple) else name)


# --- what Pillow reads wrongly ---------------------------------------------------------------------------------------


def fix_misread_tiff(image: Image.Image) -> None:
    """Before a TIFF is loaded: planes of 16 bits that Pillow reads as such of 8, and colour maps of 8 bits as of 16."""
    tags: Any = getattr(image, "tag_v2", {})
    if image.format != "TIFF" or not tags:
        return
    if _largest(tags.get(_BITS_PER_SAMPLE)) == 16:
        suffix = ";16B" if tags.prefix == b"MM" else ";16L"
        image.tile = [  # type: ignore[attr-defined]
            tile._replace(args=(tile.args[0] + suffix, *tile.args[1:]))
            if tile.codec_name == "raw" and tile.args[0] in ("R", "G", "B", "A")
            else tile
            for tile in image.tile  # type: ignore[attr-defined]
        ]
    colours = tags.get(_COLOUR_MAP)
    if image.mode in ("P", "PA") and colours and max(colours) < 256:
        # Colours of 16 bits that are all nearly black: written as bytes, as libtiff takes them too.
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
