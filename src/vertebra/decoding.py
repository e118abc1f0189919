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
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, TypeAlias

import PIL
from PIL import Image, UnidentifiedImageError

from vertebra.bit_depth import DepthError, depth_of
from vertebra.bit_scaling import check_scale
from vertebra.decoding_errors import OversizeError, UnsupportedError, errors_named
from vertebra.errors import ImageError, VertebraError, first_line, require_extra
from vertebra.file_kinds import RAW, Found, raw_file
from vertebra.photo_files import FORMATS, HEAD_BYTES, image_format
from vertebra.pillow_tiles import from_start
from vertebra.preprocessing import MAX_PIXELS, Decoding
from vertebra.rgb_conversion import Decoded as Decoded
from vertebra.rgb_conversion import upright_rgb

Source: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes]

# TIFF tags: what every DNG has (DNG specification 1.7, chapter 4), NewSubfileType with its value, SubIFDs.
_DNG_VERSION, _SUBFILE_TYPE, _PREVIEW, _SUB_IMAGES = 50706, 254, 1, 330

# Of lossy formats: the same version of Pillow may have other versions of them.
_LIBRARIES = ("jpg", "libjpeg_turbo", "jpg_2000", "webp", "avif", "libtiff")

# Formats of whose header more is read than Pillow reports.
_HEADER_READ = ("PNG", "TIFF", "PPM", "JPEG2000")

FIRST_OF_SEVERAL = "first of several"  # frames of an animation, or pages


@functools.cache
def decoder() -> str:
    """The decoding libraries with their versions, on which the pixels may depend."""
    from PIL import features

    found = {name: features.version(name) for name in _LIBRARIES}
    if importlib.util.find_spec("pillow_heif") is not None:
        from importlib import metadata

        with suppress(metadata.PackageNotFoundError):
            found["pillow_heif"] = metadata.version("pillow-heif")
    return ", ".join([f"Pillow {PIL.__version__}", *(f"{name} {known}" for name, known in found.items() if known)])


def open_image(source: Source, **options: Any) -> Image.Image:
    """The picture that `decode` gives with these options: RGB, upright."""
    return decode(source, **options).picture


def decode(
    source: Source,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> Decoded:
    """Decode a photo into an upright RGB picture.

    The EXIF orientation is applied, transparency is laid on white (alpha that is 0 everywhere is ignored), values of
    more than 8 bits are scaled to 8, and the first frame or page is taken. Colour profiles are not applied, as in the
    pipelines that the pretrained networks were trained with.

    Args:
        source: a path, the bytes of a file, or an open binary file.
        name: of what is no path, in errors.
        max_pixels: a header with more is an `OversizeError`.
        at_least: a JPEG may come in 1/2, 1/4 or 1/8 of its size, with a shorter side of at least that many pixels.
        decoding: of files whose values may be read in more than one way.

    Raises:
        ImageError: the file is missing, empty, not an image, damaged, too large, or not supported (`UnsupportedError`).
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), name or source_name(source), max_pixels, at_least, decoding)
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, "read"):
            raise ImageError(
                "a photo is given as a path, as the bytes of a file or as an open binary file, not as a "
                f"{type(source).__name__}"
            )
        return _decode(source, name or source_name(source), max_pixels, at_least, decoding)
    path = Path(source)
    try:
        # Opening or reading a pipe or a device may never end.
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
    """As `decode`, of a picture that Pillow has opened, which stays as it is.

    Give it as `PIL.Image.open` returns it: once it is loaded, Pillow has dropped the lower bytes of 16-bit colours.

    Raises:
        ImageError: it has no pixels, its file is damaged or gone, or it was made in memory and its white is ambiguous.
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
                return _first_frame(again, file, decoding)
        return _upright_loaded(image, file, Path(path), name, decoding)


def _upright_loaded(image: Image.Image, file: IO[bytes] | None, path: Path, name: str, decoding: Decoding) -> Decoded:
    if image.format is None:
        check_scale(image, decoding)
    # Pillow closes what it opened itself once it has loaded it, and of a picture that is loaded its header is gone.
    if image.format not in _HEADER_READ or image.tell() != 0 or not path.is_file():
        return upright_rgb(image, file, decoding)
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
            return upright_rgb(image, file, decoding)
        try:
            return upright_rgb(image, None, decoding, depth)
        except DepthError as error:
            raise UnsupportedError(
                f"{name} has 16-bit colours whose lower bytes are needed, and Pillow dropped them when it was loaded. "
                "Give its path, or the image as PIL.Image.open returns it."
            ) from error


def source_name(source: Source | Image.Image) -> str:
    """The name of a source in errors, where none is given."""
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
        return _first_frame(image, file, decoding)


def _first_frame(image: Image.Image, file: IO[bytes], decoding: Decoding) -> Decoded:
    several = has_frames(image)
    found = upright_rgb(image, file, decoding)
    return replace(found, remarks=(*found.remarks, FIRST_OF_SEVERAL)) if several else found


def stored_size(content: bytes) -> tuple[int, int]:
    """Width and height, before the EXIF orientation is applied, of a photo that has been decoded before."""
    with _opened(io.BytesIO(content), "the photo") as image:
        return image.size


HEIF = "HEIF"  # what Pillow calls a picture that pillow-heif has opened


def _opened(file: IO[bytes], name: str) -> Image.Image:
    """A photo whose header has been read; a camera's raw file, and HEIC without pillow-heif, are refused."""
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
    """By pillow-heif, upright and of 8 bits. It is not registered in Pillow, which would be for the whole process."""
    try:
        with require_extra("heif", "decoding HEIC"):
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
