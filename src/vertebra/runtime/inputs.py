"""Parsing of the first argument of `predict` and `predict_many` into photos."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vertebra.card import Preprocessing
from vertebra.decoding import has_several_frames
from vertebra.errors import ImageError, UsageError
from vertebra.missing_photos import MissingPhotos, explain_missing, is_missing
from vertebra.photo_download import is_url

from .array_inputs import Tensor, is_array, parse_pixels, undo_normalisation
from .input_checks import LONGEST_PATH, ONE_IMAGE, TABLES, input_error, require_binary_file, require_file_content
from .photo import NetworkPixels, Photo
from .photo_paths import photos

# One image: a path, a web address, the content of a file, an open binary file, a PIL image, pixels.
ImageInput: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[Any] | Tensor | Photo
)
# Any number: a folder, a pattern, a batch of pixels, or an iterable of these.
ImageInputs: TypeAlias = ImageInput | Iterable[ImageInput]

MAX_COUNTED = 64  # items: all photos of a list up to this length, folders included, are counted before any is predicted

_MANY = (
    "a list or a generator of what predict takes, a folder, a pattern such as 'photos/*.jpg', a NumPy array uint8 "
    "(N, H, W, 3) or a torch tensor uint8 (N, 3, H, W)"
)
_NORMALISED = "float (3, S, S) of NumPy or torch where preprocessed=True"


def parse_input(value: Any, preprocessing: Preprocessing | None = None) -> Photo:
    """Parse one image; `preprocessing` is given if the pixels are normalised by it.

    Raises:
        UsageError: it is no image, or several.
        ImageError: it is the path of a folder, or a pattern.
    """
    if _is_path(value) and preprocessing is None:
        return Photo(_require_one_path(value))
    found, batch = _InputParser(preprocessing).read(value, "image", "the image")
    if batch:
        raise UsageError(
            f"the image is a batch {tuple(value.shape)}, and predict takes one image. Write predict_many(x) for all in "
            "it, or x[0] for the first."
        )
    return found[0]


def parse_inputs(values: Any, preprocessing: Preprocessing | None = None) -> tuple[Iterable[Photo], int | None]:
    """Parse any number of images, in order; and how many there are at least (None: unknown).

    Raises:
        UsageError: an item is no image; raised at once for a list, and for a generator when the item comes.
    """
    reader = _InputParser(preprocessing)
    if is_array(values) and not _holds_objects(values):
        rows = _parse_batch(values, reader)
        return rows, len(rows)
    listed = _as_list(values, reader)
    if listed is None:
        try:
            items = iter(values)
        except TypeError as error:
            raise _no_images(values) from error
        return _parse_lazily(items, reader), _length(values)
    _reject_shared_frames(listed)
    # All are checked before the first is predicted, so that an error in the last shows at once.
    checked = [_parse_item(value, index, reader) for index, value in enumerate(listed)]
    missing = MissingPhotos()
    found = (item for part in checked for item in _find_photos(part, missing))
    if len(checked) > MAX_COUNTED:
        return found, len(checked)
    known = list(found)
    return known, len(known)


# --- paths ------------------------------------------------------------------------------------------------------------


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _check_path(value: Any, where: str) -> str:
    """Return the path as text; a `UsageError` for text that is no path."""
    path = os.fspath(value)
    path = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    if not path:
        raise UsageError(f"{where} is an empty path. The folder of this process is '.'.")
    if path[:5].lower() == "data:" or len(path) > LONGEST_PATH:
        raise UsageError(
            f"{where} is a text of {len(path):,} characters ({path[:20]!r} …), which is no path. Give base64 as bytes: "
            "base64.b64decode(text), without what comes before the comma of a data: URL."
        )
    if re.match(r"[a-z][\w+.-]+:/", path, re.IGNORECASE) and not is_url(path) and not os.path.lexists(path):
        hint = "" if isinstance(value, str) else " Give it as text: a Path has lost one of its slashes."
        raise UsageError(f"{where} is {path}, and of addresses only http:// and https:// are fetched.{hint}")
    return path


def _require_one_path(value: Any) -> str:
    path = _check_path(value, "the image")
    if is_url(path):
        return path
    if os.path.isdir(path):  # noqa: PTH112 - it may be no path at all (a NUL in it)
        raise ImageError(
            f"{path} is a folder, and predict takes one photo. Write predict_many({path!r}) for all in it."
        )
    if isinstance(value, str) and glob.has_magic(path) and not os.path.lexists(path):
        raise ImageError(
            f"{path}: no such file. Where it is a pattern, write predict_many({path!r}) for all that match."
        )
    if is_missing(path):
        raise ImageError(explain_missing(path))
    return path


def _find_photos(part: Any, missing: MissingPhotos) -> Iterable[Photo]:
    """Find the photos of a parsed item: text as on the command line, other paths, or photos in memory."""
    if not _is_path(part):
        return part  # type: ignore[no-any-return]
    path = _check_path(part, "the image")
    if isinstance(part, str) or os.path.isdir(path):  # noqa: PTH112
        return photos([path], missing=missing)
    return [Photo(path, missing.error(path))]


# --- many -------------------------------------------------------------------------------------------------------------


def _holds_objects(values: Any) -> bool:
    """Whether it is an array of paths, or of images of several sizes."""
    return isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "UO"


def _parse_batch(values: Any, reader: _InputParser) -> list[Photo]:
    found, batch = reader.read(values, "image", "the batch")
    if not batch:  # its rows are no images, and (N, H, W) may be one of N channels
        grey = "" if reader.preprocessing else ", predict_many(list(x)) where it is several of grey"
        raise UsageError(
            f"the images are one array {tuple(values.shape)}. Write predict(x) or predict_many([x]) where it is "
            f"one image{grey}."
        )
    return [replace(photo, path=f"image {index}") for index, photo in enumerate(found)]


def _as_list(values: Any, reader: _InputParser) -> list[Any] | None:
    """Return the images as a list; None for an iterable to be read one by one."""
    if _holds_objects(values):
        return list(values.tolist())
    if _is_path(values) or reader.is_image(values):
        return [values]
    if isinstance(values, list | tuple) or type(values).__name__ in ("Series", "Index"):  # of pandas or polars
        return list(values)
    if isinstance(values, Mapping | Set) or type(values).__name__ in TABLES:
        raise _no_images(values)
    return None


def _no_images(values: Any) -> UsageError:
    return input_error(values, "what predict_many was given", _MANY)


def _parse_item(value: Any, index: int, reader: _InputParser) -> Any:
    """Return a path as it was given, or the photos of an image or a batch."""
    if _is_path(value) and reader.preprocessing is None:
        _check_path(value, f"images[{index}]")
        return value
    return reader.read(value, f"image {index}", f"images[{index}]")[0]


def _reject_shared_frames(listed: list[Any]) -> None:
    """Reject the same animated PIL image several times in a list: all would show its current frame."""
    first: dict[int, int] = {}
    for index, value in enumerate(listed):
        value = value.content if isinstance(value, Photo) else value
        if not isinstance(value, Image.Image) or first.setdefault(id(value), index) == index:
            continue
        # The preview in a phone's JPEG is no frame, unless the image was moved to it.
        if has_several_frames(value) or value.tell() != 0:
            raise UsageError(
                f"images[{first[id(value)]}] and images[{index}] are one PIL image, which has several frames and is at "
                "one of them. Give copies: [frame.copy() for frame in PIL.ImageSequence.Iterator(x)]."
            )


def _parse_lazily(values: Iterator[Any], reader: _InputParser) -> Iterator[Photo]:
    missing = MissingPhotos()
    for index, value in enumerate(values):
        for item in _find_photos(_parse_item(value, index, reader), missing):
            # The caller may reuse this memory or close this file for the next item; bytes and paths stay.
            if item.content is not None and not isinstance(item.content, bytes | str):
                item = replace(item, may_change=True)
            yield item


def _length(values: Any) -> int | None:
    try:
        return len(values)
    except TypeError:  # some have `__len__` and no length
        return None


# --- one image that is no path --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _InputParser:
    """Parser of images that are not given by their path."""

    preprocessing: Preprocessing | None

    def is_image(self, value: Any) -> bool:
        """Whether its type is an image's, arrays aside."""
        return isinstance(value, Photo | bytes | bytearray | memoryview | Image.Image) or hasattr(value, "read")

    def read(self, value: Any, name: str, where: str) -> tuple[list[Photo], bool]:
        """Parse an image or a batch, and whether it is a batch; a `UsageError` if it is neither."""
        if isinstance(value, Photo):
            return [self._read_photo(value, where)], False
        if self.preprocessing is not None:
            if not is_array(value):
                is_image = _is_path(value) or self.is_image(value)
                raise input_error(value, where, _NORMALISED, " Leave preprocessed out." if is_image else "")
            cut, batch = undo_normalisation(value, where, self.preprocessing)
            contents: list[Any] = [NetworkPixels(pixels) for pixels in cut]
        elif is_array(value):
            contents, batch = parse_pixels(value, where)
        elif isinstance(value, bytes | bytearray | memoryview):
            return [Photo(name, content=require_file_content(bytes(value), where))], False
        elif isinstance(value, Image.Image):
            known = getattr(value, "filename", "")
            return [Photo(str(known or name), content=value, may_change=True)], False
        elif hasattr(value, "read"):
            known = getattr(value, "name", None)  # a number, or "<stdin>", is none
            content = require_binary_file(value, where)
            if isinstance(known, str) and known and not known.startswith("<"):
                name = known
            return [Photo(name, content=content, may_change=True)], False
        else:
            raise input_error(value, where, ONE_IMAGE)
        names = [f"{name}[{index}]" for index in range(len(contents))] if batch else [name]
        return [Photo(each, content=content) for each, content in zip(names, contents, strict=True)], batch

    def _read_photo(self, photo: Photo, where: str) -> Photo:
        """Parse the fields of a photo; its content is parsed as what is given without a name."""
        if not _is_path(photo.path):
            raise UsageError(f"the name of {where} is {photo.path!r}; it must be text. Write Photo(str(x), …).")
        name = os.fsdecode(photo.path)
        content: Any = photo.content
        what = f"the content of the photo {name!r}"
        if photo.error is not None:
            if not isinstance(photo.error, str | Exception):
                raise UsageError(f"the error of {where}, {name!r}, is {photo.error!r}; it must be text, or None.")
            return Photo(name, error=str(photo.error))
        if self.preprocessing is None:
            if content is None:
                return replace(photo, path=name)
            if isinstance(content, bytes | bytearray | memoryview):  # damaged ones are a result, whatever they hold
                return Photo(name, content=bytes(content))
            if _is_path(content):
                return Photo(name, content=_check_path(content, what))
        found, batch = self.read(name, name, where) if content is None else self.read(content, name, what)
        if batch:
            raise UsageError(
                f"{what} is a batch {tuple(content.shape)}; a Photo is one image. Write Photo(name, content=x[0])."
            )
        return replace(found[0], path=name)
