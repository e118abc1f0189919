"""Decode, resize and center-crop a photo to the input of a network, as its `Preprocessing` says.

Training, evaluation, prediction, the server and `weights.transforms()` all use this code, and so the same pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from vertebra.decoding import Source, decode, decode_opened, source_name
from vertebra.decoding_notes import DecodingNotes
from vertebra.preprocessing import Preprocessing, center_crop_box, strip_crop_box
from vertebra.resizing import Pixels as Pixels
from vertebra.resizing import resize_and_crop_rgb

# Incremented when `resize_and_crop` gives different pixels, which invalidates caches.
FIT_VERSION = 1

# A JPEG that is decoded at a fraction of its size keeps at least this multiple of `resize_size`.
SCALED_MARGIN = 2


def network_pixels(
    source: Source | Image.Image,
    preprocessing: Preprocessing,
    *,
    scaled: bool = False,
    name: str | None = None,
    notes: DecodingNotes | None = None,
) -> Pixels:
    """Decode, resize and crop a photo to the network's input: uint8 (crop, crop, 3), RGB.

    With `scaled`, a JPEG at least four times as large as needed is decoded at 1/2, 1/4 or 1/8 of its size, but at least
    twice `resize_size`. A photo of 2,000 × 3,000 pixels then takes 13 ms instead of 71, but its pixels change: over 390
    photos enlarged to that size, EfficientNet-Lite0's probabilities changed by 0.009 (median) and 0.14 (maximum), and
    the top class of ten photos changed.

    `name` names a source without a path in errors and notes; `notes` counts what was ambiguous in the file.

    Raises:
        ImageError: as `decode` and `decode_opened` do.
    """
    if isinstance(source, Image.Image):
        found = decode_opened(source, preprocessing.decoding, name=name)
    else:
        least = SCALED_MARGIN * preprocessing.resize_size if scaled else None
        found = decode(source, name=name, at_least=least, decoding=preprocessing.decoding)
    if notes is not None:
        notes.add(name or source_name(source), found.levels, found.remarks)
    return resize_and_crop(found.picture, preprocessing)


def resize_and_crop(picture: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Resize the shorter side, or squash, and center-crop: RGB picture → uint8 (crop, crop, 3)."""
    box = strip_crop_box(*picture.size)
    if box != (0, 0, *picture.size):
        picture = picture.crop(box)
    height, width = size = preprocessing.resized(picture.height, picture.width)
    crop = center_crop_box(height, width, preprocessing.crop_size)
    if size == (picture.height, picture.width):
        return np.asarray(picture.crop(crop))
    return resize_and_crop_rgb(picture, size, preprocessing.interpolation, crop)
