"""From the bytes of an image file to upright RGB pixels: the one place where a JPEG, or any other photo, is decoded.

Any file at all gives either a picture or an `ImageError` that names it.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TypeAlias

import PIL
from PIL import Image, UnidentifiedImageError

from vertebra.bit_depth import (
    Depth,
    DepthError,
    Scaled,
    check_scale,
    depth_of,
    fix_misread_tiff,
    from_start,
    is_signed_byte,
    rawmode_of,
    reopened,
    scaled_bytes,
    scaled_colour,
    scaled_grey,
)
from vertebra.decoding_errors import OversizeError, UnsupportedError, errors_named
from vertebra.errors import ImageError, VertebraError, first_line, needing
from vertebra.file_kinds import RAW, Found, raw_file
from vertebra.photo_files import FORMATS, HEAD_BYTES, image_format
from vertebra.preprocessing import MAX_PIXELS, Decoding

Source: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes]

# TIFF tags: what every DNG has (DNG specification 1.7, chapter 4), NewSubfileType with its value, SubIFDs.
_DNG_VERSION, _SUBFILE_TYPE, _PREVIEW, _SUB_IMAGES = 50706, 254, 1, 330

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

# Of Pillow, those that decode with losses: the same Pillow may come with another one.
_LIBRARIES = ("jpg", "libjpeg_turbo", "jpg_2000", "webp", "avif", "libtiff")

# Formats of whose header more is read than Pillow reports.
_HEADER_READ = ("PNG", "TIFF", "PPM", "JPEG2000")

TRANSPARENT = "transparent"  # alpha was 0 everywhere and has been ignored
HIDDEN = "hidden"  # alpha is 0 nearly everywhere, so that the picture is white
_HIDDEN_SHARE = 0.99  # of the pixels
FIRST_OF_SEVERAL = "first of several"  # frames of an animation, or pages


@functools.cache
def decoder() -> str:
    """The decoding libraries with their versions: by other versions a photo may have other pixels."""
    from PIL import features

    found = {name: features.version(name) for name in _LIBRARIES}
    if importlib.util.find_spec("pillow_heif") is not None:
        from importlib import metadata

        with suppress(metadata.PackageNotFoundError):
            found["pillow_heif"] = metadata.version("pillow-heif")
    return ", ".join([f"Pillow {PIL.__version__}", *(f"{name} {known}" for name, known in found.items() if known)])


@dataclass(frozen=True)
class Decoded:
    """A photo, and what was ambiguous in its file."""

    picture: Image.Image  # RGB, upright
    levels: int = 0  # the largest value of a file that does not say how many of its 16 bits are used; 0: other files
    remarks: tuple[str, ...] = ()  # these three, and those of `bit_depth`: where another reading was possible


def open_image(
    source: Source,
    *,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> Image.Image:
    """The picture that `decode` gives: RGB, upright."""
    return decode(source, max_pixels=max_pixels, at_least=at_least, decoding=decoding).picture


def decode(
    source: Source,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> Decoded:
    """Decode a photo into an RGB picture that stands upright.

    `source` is a path, the bytes of a file, or an open binary file. The EXIF orientation is obeyed, transparency is
    laid on white (alpha that is 0 everywhere is ignored), values of more than 8 bits are scaled to 8 as `bit_depth`
    says, and of an animation or of several pages the first is taken. Colour profiles are not applied, as in the
    pipelines that the pretrained networks were trained with. With `at_least`, a large JPEG may come in a half, a
    quarter or an eighth of its size, its shorter side no smaller than that many pixels. Errors call what is no path
    `name`.

    Raises `ImageError`, which names the file, where it is missing, no regular file, empty, not an image, of a kind
    that is not decoded (an `UnsupportedError`), damaged, truncated, or has more than `max_pixels` pixels (an
    `OversizeError`, raised by its header, before any pixel is decoded).
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), name or _name_of(source), max_pixels, at_least, decoding)
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, "read"):
            raise ImageError(
                "a photo is given as a path, as the bytes of a file or as an open binary file, not as a "
                f"{type(source).__name__}"
            )
        return _decode(source, name or _name_of(source), max_pixels, at_least, decoding)
    path = Path(source)
    try:
        # A pipe or a device could be read without an end, and opening one can wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{path} is {'a folder' if path.is_dir() else 'a pipe or device'}, not an image file")
        with path.open("rb") as file:
            return _decode(file, str(path), max_pixels, at_least, decoding)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(f"{path} cannot be read ({reason})") from error


def upright(
    image: Image.Image,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    *,
    name: str | None = None,
) -> Decoded:
    """The same of a picture that Pillow has opened. `image` stays as it is.

    Errors call it `name`, or by its file.

    Give it as `PIL.Image.open` returns it: once it is loaded, Pillow has dropped the lower bytes of 16-bit colours.

    Raises:
        ImageError: it has no pixels, its file is damaged or gone, or it was made in memory and may have its white at
            one of several values.
    """
    path = getattr(image, "filename", "") or "the picture"
    name = name or str(path)
    with errors_named(name, None):
        if not image.width * image.height:
            raise ImageError(f"{name} has no pixels ({image.width} × {image.height})")
        if raw_file(str(path)) or (image.format == "TIFF" and _is_raw(image)):
            raise UnsupportedError(f"{name} {Found(RAW, '').refusal}")
        file: IO[bytes] | None = getattr(image, "fp", None)
        unread = bool(getattr(image, "tile", None))
        if unread and (file is None or file.closed):
            raise ImageError(f"{name} was closed before it was read. Use it before it is closed, or give its path.")
        if unread and file is not None and image.format in FORMATS and image.tell() == 0:
            # Once more, from the open file, so that `image` is not loaded: Pillow would drop the lower bytes, which may
            # be asked for again. And Pillow 13.0 maps a TIFF that it opened itself wrongly where it lies on its side.
            with from_start(file), _opened(file, name) as again:
                several = has_frames(again)
                found = _upright_rgb(again, file, decoding)
                return replace(found, remarks=(*found.remarks, FIRST_OF_SEVERAL)) if several else found
        return _upright_loaded(image, file, Path(path), name, decoding)


def _upright_loaded(image: Image.Image, file: IO[bytes] | None, path: Path, name: str, decoding: Decoding) -> Decoded:
    if image.format is None:
        check_scale(image, decoding)
    # Pillow closes what it opened itself once it has loaded it, and of a picture that is loaded its header is gone.
    if image.format not in _HEADER_READ or image.tell() != 0 or not path.is_file():
        return _upright_rgb(image, file, decoding)
    with path.open("rb") as file:  # its header says what Pillow does not keep
        depth, mapped = None, False
        with suppress(Exception), Image.open(file, formats=FORMATS) as header:  # or the file is another by now
            depth = depth_of(header, file)
            mapped = image.format == header.format == "TIFF" and image.size == header.size[::-1] != header.size
        if mapped:
            raise ImageError(
                f"{name} is a TIFF that lies on its side, which Pillow {PIL.__version__} has loaded wrongly. Give its "
                "path, or the image as PIL.Image.open returns it."
            )
        if image.mode.startswith("I;16"):
            return _upright_rgb(image, file, decoding)
        try:
            return _upright_rgb(image, None, decoding, depth)
        except DepthError as error:
            raise UnsupportedError(
                f"{name} has 16-bit colours whose lower bytes are needed, and Pillow dropped them when it was loaded. "
                "Give its path, or the image as PIL.Image.open returns it."
            ) from error


def _name_of(source: Source) -> str:
    if isinstance(source, bytes):
        return f"image of {len(source)} bytes"
    return str(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", "image"))


def _decode(file: IO[bytes], name: str, max_pixels: int, at_least: int | None, decoding: Decoding) -> Decoded:
    with errors_named(name, None):
        file = file if file.seekable() else io.BytesIO(file.read())
    with errors_named(name, file), _opened(file, name) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise OversizeError(
                f"{name} has {width} × {height} pixels; at most {max_pixels:,} are decoded, for safety from "
                "decompression bombs"
            )
        if width * height == 0:
            raise ImageError(f"{name} has no pixels ({width} × {height})")
        if at_least is not None and image.format != HEIF:
            # Only JPEG's decoder can (HEIF's would take a preview). Both sides are given the same factor.
            factor = min(width, height) / at_least
            image.draft(None, (int(width / factor), int(height / factor)))
        several = has_frames(image)
        found = _upright_rgb(image, file, decoding)
        return replace(found, remarks=(*found.remarks, FIRST_OF_SEVERAL)) if several else found


def stored_size(content: bytes) -> tuple[int, int]:
    """Width and height of a photo as its file stores it, of one that has been decoded before."""
    with _opened(io.BytesIO(content), "the photo") as image:
        return image.size


HEIF = "HEIF"  # what Pillow calls a picture that pillow-heif has opened


def _opened(file: IO[bytes], name: str) -> Image.Image:
    """A photo whose header has been read; its pixels have not.

    Raises:
        UnsupportedError: it is a raw file of a camera, or HEIC without pillow-heif.
        UnidentifiedImageError: it is no photo, or damaged.
    """
    if raw := raw_file(name):
        raise UnsupportedError(f"{name} {raw.refusal}")
    try:
        image: Image.Image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        if image_format(file.read(HEAD_BYTES)) != "HEIC":
            raise
        file.seek(0)
        return _opened_heif(file, name)
    if image.format == "TIFF" and _is_raw(image):
        raise UnsupportedError(f"{name} {Found(RAW, '').refusal}")
    return image


def _is_raw(image: Image.Image) -> bool:
    """Whether a TIFF file is a camera's: DNG says so; NEF, ARW and others begin with a preview of what lies below."""
    tags = getattr(image, "tag_v2", {})
    return _DNG_VERSION in tags or (tags.get(_SUBFILE_TYPE) == _PREVIEW and _SUB_IMAGES in tags)


def _opened_heif(file: IO[bytes], name: str) -> Image.Image:
    """By pillow-heif, imported here alone. Its picture stands upright already, and has 8 bits where the file has more.

    Not by way of Pillow's registry, which would change what other code in the process opens.
    """
    try:
        with needing("heif", "decoding HEIC"):
            from pillow_heif import HeifImageFile
    except VertebraError as error:
        raise UnsupportedError(f"{name} is a HEIC image: {error}, or save it as a JPEG") from error
    try:
        image: Image.Image = HeifImageFile(file)  # type: ignore[no-untyped-call]
    except SyntaxError as error:
        raise ImageError(f"{name} is a HEIC image that is damaged or truncated ({first_line(error)})") from error
    return image


def has_frames(image: Image.Image) -> bool:
    """Whether there are more frames or pages; the previews that phones put behind a JPEG are none."""
    if image.format not in ("GIF", "PNG", "TIFF", "WEBP", "AVIF", HEIF):
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        return False  # of what comes behind a sound frame, nothing is needed


def _upright_rgb(image: Image.Image, file: IO[bytes] | None, decoding: Decoding, depth: Depth | None = None) -> Decoded:
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
    return Decoded(_upright(picture, _orientation(image)), scaled.levels, remarks)


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


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    if orientation not in _UPRIGHT:
        return image
    turned = image.transpose(_UPRIGHT[orientation])
    # The tag would turn the picture once more in any code that obeys it again.
    turned.info.clear()
    return turned
