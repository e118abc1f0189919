"""From a picture that Pillow has opened to RGB: values to 8 bits, transparency on white, upright by its EXIF tag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from PIL import Image

from vertebra.bit_depth import Depth, depth_of
from vertebra.bit_scaling import Scaled, is_signed_byte, scaled_bytes, scaled_colour, scaled_grey
from vertebra.pillow_tiles import fix_misread_tiff, rawmode_of, reopened
from vertebra.preprocessing import Decoding

# EXIF orientation -> what turns the stored pixels upright; 1 is upright. EXIF 2.3, 4.6.4 A.
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

TRANSPARENT = "transparent"  # alpha was 0 everywhere and has been ignored
HIDDEN = "hidden"  # alpha is 0 nearly everywhere, so that the picture is white
_HIDDEN_SHARE = 0.99  # of the pixels


@dataclass(frozen=True)
class Decoded:
    """A photo, and what was ambiguous in its file."""

    picture: Image.Image  # RGB, upright
    levels: int = 0  # the largest value of a file that does not say how many of its 16 bits are used; 0: other files
    remarks: tuple[str, ...] = ()  # see `decoding_notes`: where another reading was possible


def upright_rgb(image: Image.Image, file: IO[bytes] | None, decoding: Decoding, depth: Depth | None = None) -> Decoded:
    """A picture that has been opened → RGB and upright; `file` is where it was opened from."""
    depth, stored = depth or depth_of(image, file), rawmode_of(image)
    if decoding.rule > 1:
        fix_misread_tiff(image)
    image.load()
    scaled = Scaled(image)
    if image.mode.startswith("I") or image.mode == "F":
        scaled = scaled_grey(image, depth, decoding)
    elif depth.colour:
        scaled = scaled_colour(image, file, depth, decoding)
    elif decoding.rule > 1 and is_signed_byte(image):
        scaled = scaled_bytes(image)
    picture = scaled.image
    remarks: tuple[str, ...] = (scaled.remark,) if scaled.remark else ()
    if picture.has_transparency_data or picture.mode in ("La", "RGBa"):
        # Premultiplied modes convert only to their own plain form.
        plain = {"La": "LA", "RGBa": "RGBA"}.get(picture.mode)
        transparent = (picture.convert(plain) if plain else picture).convert("RGBA")
        unseen = transparent.getchannel("A").histogram()[0] / (transparent.width * transparent.height)
        if decoding.rule > 1 and unseen == 1:
            picture = _without_alpha(picture, transparent, file, stored)
            remarks += (TRANSPARENT,)
        else:
            remarks += (HIDDEN,) if unseen > _HIDDEN_SHARE else ()
            white = Image.new("RGBA", transparent.size, "white")
            picture = Image.alpha_composite(white, transparent)
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    return Decoded(_turned(picture, _orientation(image)), scaled.levels, remarks)


def _without_alpha(image: Image.Image, plain: Image.Image, file: IO[bytes] | None, stored: str) -> Image.Image:
    """The colours beside an alpha of 0; where they count as multiplied by it, Pillow has made them black."""
    if image.mode in ("La", "RGBa"):
        bands = image.split()[:-1]
        return bands[0] if len(bands) == 1 else Image.merge("RGB", bands)
    if stored.startswith("RGBa") and file is not None:
        return reopened(file, image, {stored: stored.replace("a", "X", 1)}, mode="RGB")
    return plain.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, or 1 (upright) where there is none that can be read; call it after `load()`."""
    # Read after load(): TIFF files are turned by Pillow itself while they load, and lose the tag there.
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Broken metadata around sound pixels is common and no reason to refuse a photo.
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    if orientation not in _UPRIGHT:
        return image
    turned = image.transpose(_UPRIGHT[orientation])
    # With the tag, other code would turn the picture once more.
    turned.info.clear()
    return turned
