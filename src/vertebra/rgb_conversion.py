"""Convert an opened image to upright RGB: scale to 8 bits, lay transparency on white, apply the EXIF orientation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from PIL import Image

from vertebra.bit_depth import Depth, read_depth
from vertebra.bit_scaling import ScaledImage, has_signed_bytes, scale_colour, scale_grey, scale_signed_bytes
from vertebra.pillow_tiles import first_rawmode, fix_misread_tiff, reopen
from vertebra.preprocessing import Decoding

# EXIF orientation (EXIF 2.3, 4.6.4 A) -> the transpose that makes the image upright; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_GREY = ("1", "L", "LA", "La", "F")

TRANSPARENT = "transparent"  # alpha was 0 everywhere and has been ignored
# What is done to a photo.
TURNED = "turned"  # by its EXIF orientation
ON_WHITE = "on white"  # transparency was laid on white
SCALED = "scaled"  # values of more than 8 bits were scaled to 8
GREY = "grey"  # three equal channels were made of one

HIDDEN = "hidden"  # alpha is 0 nearly everywhere, so the picture is white
_HIDDEN_SHARE = 0.99  # of the pixels


@dataclass(frozen=True)
class Decoded:
    """A photo, and what was ambiguous in its file."""

    picture: Image.Image  # RGB, upright
    levels: int = 0  # the largest value of a 16-bit file that does not declare its bit depth; 0: other files
    remarks: tuple[str, ...] = ()  # what was ambiguous; see `decoding_notes`
    conversions: tuple[str, ...] = ()  # of TURNED, ON_WHITE, SCALED, GREY


def to_upright_rgb(
    image: Image.Image, file: IO[bytes] | None, decoding: Decoding, depth: Depth | None = None
) -> Decoded:
    """Load an image that was opened from `file`, and convert it to upright RGB."""
    depth, stored = depth or read_depth(image, file), first_rawmode(image)
    if decoding.rule > 1:
        fix_misread_tiff(image)
    image.load()
    scaled = ScaledImage(image)
    if image.mode.startswith("I") or image.mode == "F":
        scaled = scale_grey(image, depth, decoding)
    elif depth.has_16_bit_colour:
        scaled = scale_colour(image, file, depth, decoding)
    elif decoding.rule > 1 and has_signed_bytes(image):
        scaled = scale_signed_bytes(image)
    picture = scaled.image
    remarks: tuple[str, ...] = (scaled.remark,) if scaled.remark else ()
    conversions: tuple[str, ...] = (SCALED,) if scaled.image is not image else ()
    if picture.has_transparency_data or picture.mode in ("La", "RGBa"):
        # Premultiplied modes convert only to their own plain form.
        plain = {"La": "LA", "RGBa": "RGBA"}.get(picture.mode)
        transparent = (picture.convert(plain) if plain else picture).convert("RGBA")
        unseen = transparent.getchannel("A").histogram()[0] / (transparent.width * transparent.height)
        if decoding.rule > 1 and unseen == 1:
            picture = _discard_alpha(picture, transparent, file, stored)
            remarks += (TRANSPARENT,)
        else:
            remarks += (HIDDEN,) if unseen > _HIDDEN_SHARE else ()
            white = Image.new("RGBA", transparent.size, "white")
            picture = Image.alpha_composite(white, transparent)
            conversions += (ON_WHITE,) if transparent.getchannel("A").getextrema() != (255, 255) else ()
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    conversions += (GREY,) if image.mode in _GREY or image.mode.startswith("I") else ()
    upright = _apply_orientation(picture, _read_orientation(image))
    conversions += (TURNED,) if upright is not picture else ()
    return Decoded(upright, scaled.levels, remarks, conversions)


def _discard_alpha(image: Image.Image, plain: Image.Image, file: IO[bytes] | None, stored: str) -> Image.Image:
    """The colours without alpha; Pillow has set premultiplied ones to black, so they are read again."""
    if image.mode in ("La", "RGBa"):
        bands = image.split()[:-1]
        return bands[0] if len(bands) == 1 else Image.merge("RGB", bands)
    if stored.startswith("RGBa") and file is not None:
        return reopen(file, image, {stored: stored.replace("a", "X", 1)}, mode="RGB")
    return plain.convert("RGB")


def _read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, or 1 (upright) if it is missing or unreadable."""
    # After load(), in which Pillow rotates TIFF files and removes their tag.
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Broken metadata is common and no reason to reject a photo.
        return 1


def _apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    if orientation not in _UPRIGHT:
        return image
    turned = image.transpose(_UPRIGHT[orientation])
    # Otherwise other code would apply the orientation again.
    turned.info.clear()
    return turned
