"""A photo on its way to the network: what is cut off, resized and put in, as pictures and boxes for the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vertebra.decoding import Source, decode, source_name
from vertebra.pixels import Pixels, resize_and_crop
from vertebra.preprocessing import Preprocessing, center_crop_box, resized_size, strip_crop_box

MOST = 1024  # pixels of the longer side of the photo on the page


@dataclass(frozen=True)
class Photo:
    """A decoded photo and the pixels that the network sees."""

    name: str
    picture: Image.Image
    pixels: Pixels
    preprocessing: Preprocessing

    def to_dict(self) -> dict[str, Any]:
        """For the page. `crop` is what the network sees, (left, top, right, bottom) in pixels of the photo; beyond its
        edges there is black.
        """
        left, top, right, bottom = strip_crop_box(*self.picture.size)
        resized = resized_size(bottom - top, right - left, self.preprocessing.resize_size)
        box = center_crop_box(*resized, self.preprocessing.crop_size)
        scale = ((right - left) / resized[1], (bottom - top) / resized[0])
        shown = self.picture.copy()
        shown.thumbnail((MOST, MOST))
        return {
            "name": self.name,
            "width": self.picture.width,
            "height": self.picture.height,
            "crop": [
                left + box[0] * scale[0],
                top + box[1] * scale[1],
                left + box[2] * scale[0],
                top + box[3] * scale[1],
            ],
            "resized": [resized[1], resized[0]],
            "size": self.preprocessing.crop_size,
            "mean": list(self.preprocessing.mean),
            "std": list(self.preprocessing.std),
            "picture": _data_url(shown, "JPEG", quality=85),
            "input": _data_url(Image.fromarray(np.ascontiguousarray(self.pixels)), "PNG"),
        }


def read_photo(source: Source, preprocessing: Preprocessing) -> Photo:
    """Decode a photo and make the network's input of it. Raises `ImageError` as `decode` does."""
    picture = decode(source, decoding=preprocessing.decoding).picture
    return Photo(source_name(source), picture, resize_and_crop(picture, preprocessing), preprocessing)


def _data_url(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
