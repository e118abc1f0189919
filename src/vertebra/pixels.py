"""From a photo to an RGB picture: the one place where image files are decoded.

Training, prediction and the server all read photos here, so that a network sees the same pixels everywhere, and any
file at all gives either a picture or an `ImageError` that names it.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vertebra.card import Preprocessing, centre_crop_box, resized_size
from vertebra.errors import ImageError, first_line

Source: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes]
Pixels: TypeAlias = NDArray[np.uint8]

# The size from which Pillow refuses by default, kept here so that no other code in the process can lift it: about
# 13,400 × 13,400, far above any camera's photo and below one gigabyte of pixels.
MAX_PIXELS = 178_956_970

# Formats of photos only. Others that Pillow knows start programs (EPS runs Ghostscript) or are documents.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")

# How files of these formats are named; what is looked for in a folder.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2", ".tga")
)

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


# How many times larger than its target a JPEG's shorter side remains when it is decoded at a fraction of its size.
SCALED_MARGIN = 2


class OversizeError(ImageError):
    """An image has more pixels than are allowed."""


# Pillow's resampling filters by the names that a card has.
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


# Longer pictures, in multiples of the shorter side, lose their ends before they are resized.
_LONGEST = 16


def network_pixels(source: Source, preprocessing: Preprocessing, *, scaled: bool = False) -> Pixels:
    """Decode a photo and cut the network's input out of it: uint8 (crop, crop, 3), RGB.

    Equal bit for bit to what training and evaluation see before they normalise.

    With `scaled`, a JPEG at least four times as large as needed is decoded at 1/2, 1/4 or 1/8 of its size; what is
    left is still at least twice the size that it is then resized to. A photo of 2,000 × 3,000 pixels then takes 13 ms
    instead of 71. But the pixels are no longer equal: over 390 photos, enlarged to that size, EfficientNet-Lite0's
    probabilities changed by 0.009 (median) and 0.14 (at most), and ten best classes became others. So it is off
    unless asked for; smaller photos are never touched.

    Raises:
        ImageError: as `open_image` does.
    """
    least = SCALED_MARGIN * preprocessing.resize_size if scaled else None
    return fit(open_image(source, at_least=least), preprocessing)


def fit(picture: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """The shorter side resized, the centre cut out: an RGB picture → uint8 (crop, crop, 3)."""
    # A strip of 1 × 30,000 pixels would be gigabytes once it is resized, and nearly all of it is cut off then.
    beyond = (max(picture.size) - _LONGEST * min(picture.size)) // 2
    if beyond > 0:
        x, y = (beyond, 0) if picture.width > picture.height else (0, beyond)
        picture = picture.crop((x, y, picture.width - x, picture.height - y))
    size = resized_size(picture.height, picture.width, preprocessing.resize_size)
    if size != (picture.height, picture.width):
        picture = picture.resize(size[::-1], _FILTERS[preprocessing.interpolation])
    return np.asarray(picture.crop(centre_crop_box(picture.height, picture.width, preprocessing.crop_size)))


def open_image(source: Source, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Image.Image:
    """Decode a photo into an RGB picture that stands upright.

    `source` is a path, the bytes of a file, or an open binary file. The EXIF orientation is obeyed, transparency is
    laid on white, 16-bit values are scaled to 8 bits, and of an animation the first frame is taken. Colour profiles
    are not applied, as in the pipelines that the pretrained networks were trained with. With `at_least`, a large JPEG
    may come in a half, a quarter or an eighth of its size, its shorter side no smaller than that many pixels.

    Raises `ImageError`, which names the file, where it is missing, no regular file, empty, not an image, damaged,
    truncated, or has more than `max_pixels` pixels (an `OversizeError`, told from its header, before any pixel is
    decoded).
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), _name_of(source), max_pixels, at_least)
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, "read"):
            raise ImageError(
                "a photo is given as a path, as the bytes of a file or as an open binary file, not as a "
                f"{type(source).__name__}"
            )
        return _decode(source, _name_of(source), max_pixels, at_least)
    path = Path(source)
    try:
        # A pipe or a device could be read without an end, and opening one can wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{path} is {'a folder' if path.is_dir() else 'a pipe or device'}, not an image file")
        with path.open("rb") as file:
            return _decode(file, str(path), max_pixels, at_least)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(f"{path} cannot be read ({reason})") from error


def _name_of(source: Source) -> str:
    if isinstance(source, bytes):
        return f"image of {len(source)} bytes"
    return str(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", "image"))


def _decode(file: IO[bytes], name: str, max_pixels: int, at_least: int | None) -> Image.Image:
    try:
        if not file.seekable():
            file = io.BytesIO(file.read())
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise OversizeError(
                    f"{name} has {width} × {height} pixels; at most {max_pixels:,} are decoded, for safety from "
                    "decompression bombs"
                )
            if width * height == 0:
                raise ImageError(f"{name} has no pixels ({width} × {height})")
            if at_least is not None:
                # Only JPEG's decoder can; for other formats it does nothing. Both sides are given the same factor.
                factor = min(width, height) / at_least
                image.draft(None, (int(width / factor), int(height / factor)))
            image.load()
            return _upright(_to_rgb(image), _orientation(image))
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own check comes first where its limit is no higher than ours; its message has the number of pixels.
        raise ImageError(f"{name} has too many pixels: {first_line(error)}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} {_what_instead(file)}") from error
    except MemoryError as error:
        raise ImageError(f"{name} cannot be decoded: there is not enough memory") from error
    except Exception as error:
        # Damaged files make Pillow's readers raise nearly anything (struct.error, KeyError, SyntaxError, …), and one
        # bad photo must never stop a run.
        raise ImageError(f"{name} is damaged or truncated ({first_line(error)})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB from any mode that the formats above decode to."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image)
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        # Premultiplied modes convert only to their own plain form.
        plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        transparent = (image.convert(plain) if plain else image).convert("RGBA")
        white = Image.new("RGBA", transparent.size, "white")
        return Image.alpha_composite(white, transparent).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Greyscale of more than 8 bits, scaled to 8; Pillow's own conversion clips everything above 255 to white.

    16-bit values map 65,535 to 255. Integers beyond that range and floating point have no agreed white: floats within
    0–1 and 0–255 are taken as such, and anything else is stretched from its own minimum to its maximum.
    """
    values = np.asarray(image).astype(np.float32)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    white = 65_535.0
    if image.mode == "F":
        white = 1.0 if high <= 1 else 255.0
    if low < 0 or high > white:
        values, white = values - low, high - low
    return Image.fromarray(np.rint(values * (255.0 / white)).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, or 1 (upright) where there is none that can be read; call it after `load()`."""
    # Read after load(): TIFF files are turned by Pillow itself while they load, and lose the tag there.
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Broken metadata around sound pixels is common and no reason to refuse a photo.
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation not in _UPRIGHT:
        return image
    turned = image.transpose(_UPRIGHT[orientation])
    # The tag would turn the picture once more in any code that obeys it again.
    turned.info.clear()
    return turned


def _what_instead(file: IO[bytes]) -> str:
    """Say what a file is that is not an image."""
    file.seek(0)
    head = file.read(512)
    if not head:
        return "is empty"
    text = not any(byte < 9 or 13 < byte < 32 for byte in head)
    found = "is a text file, not an image" if text else "is not an image in a known format"
    return f"{found} (known: {', '.join(FORMATS)})"
