"""Values of more than 8 bits → 8 bits: grey of 16 and 32 bits and floating point, colours of 16 bits.

Pillow gives grey of 16 bits as it is stored, and of 16-bit colour the upper bytes alone. Where a file uses fewer bits
than it has room for, both are nearly black unless white is moved to where the file, or a person, says that it is.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vertebra.bit_depth import Depth, DepthError
from vertebra.pillow_tiles import fix_misread_tiff, rawmode, reopen, rewound
from vertebra.preprocessing import Decoding

# TIFF 6.0: tags, and what they hold.
_PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 262, 284, 339
_MIN_IS_WHITE, _UNSIGNED, _SIGNED = 0, 1, 2

# Floating-point values that end above 1 and not above this may be from 0 to 1, and resized.
_OVERSHOOT = 2.0

# How values became 8 bits, where another way was possible.
STRETCHED, UNIT_FLOAT, BYTE_FLOAT, CLAIMED = "stretched", "float to 1", "float to 255", "claimed depth"


def _valid_claim(bits: int | None, greatest: int) -> int | None:
    """The depth that a file claims, or None where its values are above.

    By PNG's standard values of 12 bits are scaled to 16, with 12 in sBIT; many writers do not scale them.
    """
    return bits if bits is not None and greatest < 2**bits else None


@dataclass(frozen=True)
class ScaledImage:
    """A picture of 8 bits."""

    image: Image.Image
    levels: int = 0  # the largest value of a file that does not say how many of its 16 bits are used; else 0
    remark: str = ""


def scale_grey(image: Image.Image, depth: Depth, decoding: Decoding) -> ScaledImage:
    """Grey of more than 8 bits → 8 bits; Pillow's own conversion clips everything above 255 to white.

    Integers from 0 to 65,535 have white at 65,535, or at `2**bits - 1` where the file or `decoding` says its depth.
    Floats within 0–1 and 0–255 are taken as such; anything else is stretched from its least to its greatest value.
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
        bits = depth.stated_bits or _valid_claim(depth.claimed_bits, int(high))
        remark = CLAIMED if bits and not depth.stated_bits else ""
        levels = 0 if bits else int(high)
        white = float(2 ** (bits or decoding.bits or 16) - 1)
    grey = np.rint(np.minimum(values * (255.0 / white), 255.0)).astype(np.uint8)
    if decoding.rule > 1:
        if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE:
            grey = 255 - grey  # Pillow turns 8 bits, and not 16
        key = image.info.get("transparency")
        if image.format == "PNG" and isinstance(key, int) and (stored != key).any():
            grey[stored == key] = 255  # transparent, on white
    return ScaledImage(Image.fromarray(grey), levels, remark)


def reject_unknown_white(image: Image.Image, decoding: Decoding) -> None:
    """Raise a `DepthError` for a picture made in memory whose white may not be where `scale_grey` takes it to be.

    Pillow's `convert("I")` leaves white at 255, where integers of a file have it at 65,535.
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


def has_signed_bytes(image: Image.Image) -> bool:
    """Whether Pillow takes values from -128 to 127 for such from 0 to 255."""
    tags: Any = getattr(image, "tag_v2", {})
    return image.mode == "L" and tags.get(_SAMPLE_FORMAT) == (_SIGNED,)


def scale_signed_bytes(image: Image.Image) -> ScaledImage:
    """Signed bytes → 0 to 255: as they are where none is negative, else stretched as other signed values are."""
    values = np.asarray(image).view(np.int8)
    if values.min() >= 0:
        return ScaledImage(image)
    return scale_grey(Image.fromarray(values.astype(np.int32)), Depth(), Decoding())


def scale_colour(image: Image.Image, file: IO[bytes] | None, depth: Depth, decoding: Decoding) -> ScaledImage:
    """A loaded picture whose file has 16 bits a channel → 8 bits, from all its bits where the upper 8 are too few.

    A `DepthError` where its lower bits are needed and cannot be read.
    """
    colours = [band for band in image.getbands() if band != "A"]
    extremes: list[Any] = [image.getchannel(band).getextrema() for band in colours]
    upper = max(int(greatest) for _, greatest in extremes)
    # Pillow cuts the lower bytes off, but of portable maps it rounds.
    greatest = upper << 8 | 255 if image.format != "PPM" else max(255, 257 * upper - 128)
    if decoding.rule == 1:
        return ScaledImage(image, greatest)
    claimed = _valid_claim(depth.claimed_bits, greatest)
    bits = claimed or decoding.bits or 16
    levels, remark = (0, CLAIMED) if claimed else (greatest, "")
    key = image.info.get("transparency")
    if bits == 16 and not isinstance(key, tuple):
        return ScaledImage(image, levels, remark)
    values = _read_16_bit_colours(image, file, bits)
    scaled = image
    if bits < 16:
        grey = np.rint(np.minimum(values * (255.0 / (2**bits - 1)), 255.0)).astype(np.uint8)
        if image.mode == "RGBA" and values[..., -1].max() >= 2**bits:
            grey[..., -1] = np.asarray(image)[..., -1]  # alpha uses all 16
        scaled = Image.fromarray(grey, image.mode)
    if isinstance(key, tuple):  # the colour that is transparent, in 16 bits
        scaled = scaled.convert("RGB") if bits < 16 else Image.fromarray(np.asarray(image))
        scaled.putalpha(Image.fromarray(np.where((values == key).all(axis=-1), 0, 255).astype(np.uint8)))
    return ScaledImage(scaled, levels, remark)


def _read_16_bit_colours(image: Image.Image, file: IO[bytes] | None, bits: int) -> NDArray[np.uint16]:
    """(H, W, C), read a second time: Pillow's decoders give upper bytes or lower ones."""
    refusal = DepthError(
        f"has 16-bit colours of which only the upper 8 bits can be read here, and it is black where {bits} bits are "
        "used. Save it as a PNG, or as a TIFF without premultiplied alpha"
    )
    if file is None:
        raise refusal
    with rewound(file), Image.open(file, formats=[image.format or ""]) as probe:
        fix_misread_tiff(probe)
        tiles: Any = getattr(probe, "tile", [])
        names = {rawmode(tile) for tile in tiles}
        by_planes = len(tiles) == 1 and getattr(probe, "tag_v2", {}).get(_PLANES) == 2  # by libtiff, in its own way
    if names == {"LA;16B"}:
        # Four bytes a pixel: the upper and the lower of grey, then of alpha.
        both = np.asarray(reopen(file, image, {"LA;16B": "RGBA"}, mode="RGBA")).astype(np.uint16)
        grey, alpha = (both[..., i] << 8 | both[..., i + 1] for i in (0, 2))
        return np.stack([grey, grey, grey, alpha], axis=-1)
    if image.format == "PPM" and tiles[0].codec_name == "ppm":
        raw = [[tiles[0]._replace(codec_name="raw", args=(f"RGB;16{end}", 0, 1))] for end in "BL"]
        upper, lower = (reopen(file, image, {}, tiles=tile) for tile in raw)
    elif names and not by_planes and all(name[-4:-1] == ";16" and "a" not in name for name in names):
        ends = "BL" if sys.byteorder == "big" else "LB"  # N is the machine's order, whose upper byte L or B has
        other = {"B": "L", "L": "B", "N": ends[1]}
        upper, lower = image, reopen(file, image, {name: name[:-1] + other[name[-1]] for name in names})
    else:
        raise refusal
    whole: NDArray[np.uint16] = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
    return whole
