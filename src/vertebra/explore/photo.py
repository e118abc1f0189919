"""A photo on its way to the network: what is cut off, resized and put in, as pictures and boxes for the page."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

from vertebra.decoding import Source, decode, source_name
from vertebra.errors import ImageError, UsageError
from vertebra.missing_photos import explain_missing, is_missing
from vertebra.pixels import Pixels, resize_and_crop
from vertebra.preprocessing import Preprocessing, center_crop_box, strip_crop_box

from .encoding import data_url

MOST_SIDE = 1024  # pixels of the longer side of the photo on the page
MOST_BYTES = 300_000  # of a picture on the page
_LOSSLESS_SIDE = 256  # pixels; a photo up to this size is shown as it is
_QUALITIES = (95, 85, 75, 60, 40)  # of JPEG


@dataclass(frozen=True)
class Photo:
    """A decoded photo and the pixels that the network sees."""

    name: str
    picture: Image.Image
    pixels: Pixels
    preprocessing: Preprocessing
    conversions: tuple[str, ...] = ()  # of `Decoded`
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For the page. Boxes are (left, top, right, bottom); beyond the photo's edges there is black.

        `strip` is the part of the photo that is resized, all but of a long strip; `box` is what is cut out of the
        resized one, and `crop` the same box in pixels of the photo.
        """
        given = self.preprocessing
        left, top, right, bottom = strip = strip_crop_box(*self.picture.size)
        height, width = given.resized(bottom - top, right - left)
        box = center_crop_box(height, width, given.crop_size)
        across, down = (right - left) / width, (bottom - top) / height
        picture, _ = _data_url(_shown(self.picture))
        seen, lossless = _data_url(Image.fromarray(np.ascontiguousarray(self.pixels)), smooth=False)
        return {
            "name": self.name,
            "width": self.picture.width,
            "height": self.picture.height,
            "done": [*self.conversions, *self.remarks],
            "strip": list(strip),
            "crop": [left + box[0] * across, top + box[1] * down, left + box[2] * across, top + box[3] * down],
            "resized": [width, height],
            "squashed": given.crop_mode == "squash",
            "interpolation": given.interpolation,
            "box": list(box),
            "size": given.crop_size,
            "mean": list(given.mean),
            "std": list(given.std),
            "channels": list(self._channels()),
            "picture": picture,
            "input": seen,
            "lossless": lossless,
        }

    def _channels(self) -> Iterator[dict[str, float]]:
        """Of the normalised input's red, green and blue: the least and greatest value, mean and standard deviation."""
        for channel, (mean, std) in enumerate(zip(self.preprocessing.mean, self.preprocessing.std, strict=True)):
            values = (self.pixels[..., channel].astype(np.float64) / 255 - mean) / std
            yield {
                "low": float(values.min()),
                "high": float(values.max()),
                "mean": float(values.mean()),
                "std": float(values.std()),
            }


def check_photo(source: Source) -> None:
    """Raise an `ImageError` if a photo cannot be read, before anything slow is done."""
    if isinstance(source, str | os.PathLike):
        text = os.fsdecode(source)
        if not text.strip():
            raise UsageError("the PHOTO is empty, as an unset variable would be. Give the path of a photo.")
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
            raise UsageError(f"{text} is a web address. Download the photo, then give its path.")
        if is_missing(text):
            raise ImageError(explain_missing(text))
    decode(source)
    if hasattr(source, "seek"):
        source.seek(0)


def read_photo(source: Source, preprocessing: Preprocessing) -> Photo:
    """Decode a photo and make the network's input of it. Raises `ImageError` as `decode` does."""
    found = decode(source, decoding=preprocessing.decoding)
    pixels = resize_and_crop(found.picture, preprocessing)
    return Photo(source_name(source), found.picture, pixels, preprocessing, found.conversions, found.remarks)


def _shown(picture: Image.Image) -> Image.Image:
    """The picture with at most `MOST_SIDE` pixels along its longer side."""
    longer = max(picture.size)
    if longer <= MOST_SIDE:
        return picture
    width, height = (max(1, round(side * MOST_SIDE / longer)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _data_url(picture: Image.Image, smooth: bool = True) -> tuple[str, bool]:
    """The picture as a data URL of at most `MOST_BYTES` encoded bytes, and whether it is lossless.

    `smooth`: a large one goes to JPEG at once; else lossless formats are tried first. Noise at the least quality may
    be larger yet.
    """
    for kind, options in _encodings(picture, smooth):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        lossless = kind != "JPEG"
        if buffer.tell() <= MOST_BYTES:
            break
    return data_url(kind.lower(), buffer.getvalue()), lossless


def _encodings(picture: Image.Image, smooth: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    if not smooth or max(picture.size) <= _LOSSLESS_SIDE:
        yield "PNG", {"optimize": True}
        if features.check("webp"):
            yield "WEBP", {"lossless": True}
    for quality in _QUALITIES[1 if smooth else 0 :]:
        yield "JPEG", {"quality": quality, "subsampling": 2 if smooth else 0}
