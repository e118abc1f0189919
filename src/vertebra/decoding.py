"""Decode a JPEG or any other image file: open and check it, then convert it to upright RGB with `rgb_conversion`.

Every file gives either an image or an `ImageError` that names it.
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
from typing import IO, Any, Protocol, TypeAlias

import PIL
from PIL import Image, UnidentifiedImageError

from vertebra.bit_depth import DepthError, read_depth
from vertebra.bit_scaling import reject_unknown_white
from vertebra.decoding_errors import OversizeError, UnsupportedError, convert_decoding_errors
from vertebra.errors import ImageError, VertebraError, first_line, require_extra
from vertebra.file_kinds import RAW, DetectedKind, detect_raw
from vertebra.photo_files import FORMATS, HEAD_BYTES, image_format
from vertebra.pillow_tiles import rewound
from vertebra.preprocessing import Decoding
from vertebra.rgb_conversion import Decoded as Decoded
from vertebra.rgb_conversion import to_upright_rgb


class StoredFile(Protocol):
    """A file that is no local one, such as a photo in a shard; its `str` names it."""

    def read_bytes(self) -> bytes:
        """Return the content; a `VertebraError` if it cannot be read."""


Source: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | StoredFile

# Limit against decompression bombs, about 13,400 × 13,400 pixels: Pillow's default, which other code in the process may
# change there. The server has a lower one, `ServerSettings.max_pixels`.
MAX_PIXELS = 178_956_970

# TIFF tags: what every DNG has (DNG specification 1.7, chapter 4), NewSubfileType with its value, SubIFDs.
_DNG_VERSION, _SUBFILE_TYPE, _PREVIEW, _SUB_IMAGES = 50706, 254, 1, 330

# Decoders of lossy formats; the same version of Pillow may be built with different ones.
_LIBRARIES = ("jpg", "libjpeg_turbo", "jpg_2000", "webp", "avif", "libtiff")

# Formats whose header is read beyond what Pillow reports.
_HEADER_READ = ("PNG", "TIFF", "PPM", "JPEG2000")

FIRST_OF_SEVERAL = "first of several"  # frames of an animation, or pages


@functools.cache
def decoder_versions() -> str:
    """Names and versions of the decoding libraries, on which pixels may depend."""
    from PIL import features

    found = {name: features.version(name) for name in _LIBRARIES}
    if importlib.util.find_spec("pillow_heif") is not None:
        from importlib import metadata

        with suppress(metadata.PackageNotFoundError):
            found["pillow_heif"] = metadata.version("pillow-heif")
    return ", ".join([f"Pillow {PIL.__version__}", *(f"{name} {known}" for name, known in found.items() if known)])


def open_image(source: Source, **options: Any) -> Image.Image:
    """Decode an image and return its upright RGB picture; options as for `decode`."""
    return decode(source, **options).picture


def decode(
    source: Source,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    at_least: int | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> Decoded:
    """Decode an image file to an upright RGB picture.

    Applies the EXIF orientation, lays transparency on white (alpha that is 0 everywhere is ignored), scales values of
    more than 8 bits to 8, and decodes only the first frame or page. Colour profiles are ignored, as in the pipelines
    that the pretrained networks were trained with.

    Args:
        source: a path, the bytes of a file, an open binary file, or a `StoredFile`.
        name: name of a source without a path, for errors.
        max_pixels: an image with more is rejected with an `OversizeError`, before it is decoded.
        at_least: allow a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size, with at least this shorter side in pixels.
        decoding: how ambiguous files are decoded.

    Raises:
        ImageError: the file is missing, empty, not an image, damaged, too large, or not supported (`UnsupportedError`).
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), name or source_name(source), max_pixels, at_least, decoding)
    if not isinstance(source, str | os.PathLike):
        if hasattr(source, "read_bytes"):
            try:
                content = source.read_bytes()
            except VertebraError as error:
                raise ImageError(str(error)) from error
            return _decode(io.BytesIO(content), name or str(source), max_pixels, at_least, decoding)
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


def decode_opened(
    image: Image.Image,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    *,
    name: str | None = None,
) -> Decoded:
    """Decode an image that Pillow has opened, as `decode` does; the image is not modified.

    It should not be loaded yet: when Pillow loads 16-bit colours, it drops their lower bytes.

    Raises:
        ImageError: the image is empty, its file is damaged or gone, or its white value is ambiguous.
    """
    path = getattr(image, "filename", "") or "the picture"
    name = name or str(path)
    with convert_decoding_errors(name, None):
        if not image.width * image.height:
            raise ImageError(f"{name} has no pixels ({image.width} × {image.height})")
        if detect_raw(str(path)) or (image.format == "TIFF" and _is_raw(image)):
            raise UnsupportedError(f"{name} {DetectedKind(RAW, '').refusal}")
        file: IO[bytes] | None = getattr(image, "fp", None)
        unread = bool(getattr(image, "tile", None))
        if unread and (file is None or file.closed):
            raise ImageError(f"{name} was closed before it was read. Use it before it is closed, or give its path.")
        if unread and file is not None and image.format in FORMATS and image.tell() == 0:
            # Opened again, so that `image` is not loaded and keeps the lower bytes. Also, Pillow 13.0 decodes a rotated
            # TIFF incorrectly if it opened the file itself.
            with rewound(file), _open(file, name) as again:
                return _first_frame(again, file, decoding)
        return _upright_loaded(image, file, Path(path), name, decoding)


def _upright_loaded(image: Image.Image, file: IO[bytes] | None, path: Path, name: str, decoding: Decoding) -> Decoded:
    if image.format is None:
        reject_unknown_white(image, decoding)
    # Loading discards the header, and closes a file that Pillow opened itself.
    if image.format not in _HEADER_READ or image.tell() != 0 or not path.is_file():
        return to_upright_rgb(image, file, decoding)
    with path.open("rb") as file:  # for its header, which Pillow does not keep
        depth, mapped = None, False
        with suppress(Exception), Image.open(file, formats=FORMATS) as header:  # the file may have been replaced
            depth = read_depth(header, file)
            mapped = image.format == header.format == "TIFF" and image.size == header.size[::-1] != header.size
        if mapped:
            raise ImageError(
                f"{name} is a TIFF that lies on its side, which Pillow {PIL.__version__} has loaded wrongly. Give its "
                "path, or the image as PIL.Image.open returns it."
            )
        if image.mode.startswith("I;16"):
            return to_upright_rgb(image, file, decoding)
        try:
            return to_upright_rgb(image, None, decoding, depth)
        except DepthError as error:
            raise UnsupportedError(
                f"{name} has 16-bit colours whose lower bytes are needed, and Pillow dropped them when it was loaded. "
                "Give its path, or the image as PIL.Image.open returns it."
            ) from error


def source_name(source: Source | Image.Image) -> str:
    """The default name of a source in errors."""
    if isinstance(source, bytes):
        return f"image of {len(source)} bytes"
    if isinstance(source, str | os.PathLike) or hasattr(source, "read_bytes"):
        return str(source)
    return str(getattr(source, "name", "image"))


def _decode(file: IO[bytes], name: str, max_pixels: int, at_least: int | None, decoding: Decoding) -> Decoded:
    with convert_decoding_errors(name, None):
        file = file if file.seekable() else io.BytesIO(file.read())
    with convert_decoding_errors(name, file), _open(file, name) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise OversizeError(
                f"{name} has {width} × {height} pixels; at most {max_pixels:,} are decoded, for safety from "
                "decompression bombs"
            )
        if width * height == 0:
            raise ImageError(f"{name} has no pixels ({width} × {height})")
        if at_least is not None and image.format != HEIF:
            # Only for JPEG: for HEIF, Pillow would return a preview. Both sides get the same factor.
            factor = min(width, height) / at_least
            image.draft(None, (int(width / factor), int(height / factor)))
        return _first_frame(image, file, decoding)


def _first_frame(image: Image.Image, file: IO[bytes], decoding: Decoding) -> Decoded:
    several = has_several_frames(image)
    found = to_upright_rgb(image, file, decoding)
    return replace(found, remarks=(*found.remarks, FIRST_OF_SEVERAL)) if several else found


def stored_size(content: bytes) -> tuple[int, int]:
    """Width and height of a decodable photo, before its EXIF orientation is applied."""
    with _open(io.BytesIO(content), "the photo") as image:
        return image.size


HEIF = "HEIF"  # Pillow's name of the format


def _open(file: IO[bytes], name: str) -> Image.Image:
    """Open an image and read its header; raw files, and HEIC without pillow-heif, are rejected."""
    if raw := detect_raw(name):
        raise UnsupportedError(f"{name} {raw.refusal}")
    try:
        image: Image.Image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        if image_format(file.read(HEAD_BYTES)) != "HEIC":
            raise
        file.seek(0)
        return _open_heif(file, name)
    if image.format == "TIFF" and _is_raw(image):
        raise UnsupportedError(f"{name} {DetectedKind(RAW, '').refusal}")
    return image


def _is_raw(image: Image.Image) -> bool:
    """Whether a TIFF is a raw file: DNG has a tag for it; NEF, ARW and others begin with a preview."""
    tags = getattr(image, "tag_v2", {})
    return _DNG_VERSION in tags or (tags.get(_SUBFILE_TYPE) == _PREVIEW and _SUB_IMAGES in tags)


def _open_heif(file: IO[bytes], name: str) -> Image.Image:
    """Open with pillow-heif: upright, 8 bits. Not registered in Pillow, which would affect the whole process."""
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


def has_several_frames(image: Image.Image) -> bool:
    """Whether there are several frames or pages, not counting the previews that phones append to a JPEG."""
    if image.format not in ("GIF", "PNG", "TIFF", "WEBP", "AVIF", HEIF):
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        return False  # later frames may be damaged; only the first is needed
