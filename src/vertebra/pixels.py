"""From a photo to the input of a network: decoded, resized and cropped as the `Preprocessing` record says.

Training, evaluation, prediction, the server and `weights.transforms()` all cut their input out here, so that a network
gets the same pixels everywhere. `preprocessing` decides what is cut out, `decoding` makes a picture of a file.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vertebra.decoding import Source, decode, source_name, upright
from vertebra.decoding_notes import DecodingNotes
from vertebra.preprocessing import Preprocessing, centre_crop_box, middle_of_strip, resized_size

Pixels: TypeAlias = NDArray[np.uint8]

# Pillow's resampling filters by the names that a card has.
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

# Raised whenever `resize_and_crop` gives other pixels of the same picture: what is in caches is then computed again.
FIT_VERSION = 1

# How many times larger than its target a JPEG's shorter side remains when it is decoded at a fraction of its size.
SCALED_MARGIN = 2


def network_pixels(
    source: Source | Image.Image,
    preprocessing: Preprocessing,
    *,
    scaled: bool = False,
    name: str | None = None,
    notes: DecodingNotes | None = None,
) -> Pixels:
    """Decode a photo and cut the network's input out of it: uint8 (crop, crop, 3), RGB.

    Equal bit for bit to what training and evaluation normalise.

    With `scaled`, a JPEG at least four times as large as needed is decoded at 1/2, 1/4 or 1/8 of its size; what is
    left is still at least twice the size that it is then resized to. A photo of 2,000 × 3,000 pixels then takes 13 ms
    instead of 71. But the pixels are no longer equal: over 390 photos, enlarged to that size, EfficientNet-Lite0's
    probabilities changed by 0.009 (median) and 0.14 (at most), and ten best classes became others. So it is off
    unless asked for; smaller photos are never touched.

    Errors and notes call what is no path `name`; `notes` count what was ambiguous in its file.

    Raises:
        ImageError: as `decode` and `upright` do.
    """
    if isinstance(source, Image.Image):
        found = upright(source, preprocessing.decoding, name=name)
    else:
        least = SCALED_MARGIN * preprocessing.resize_size if scaled else None
        found = decode(source, name=name, at_least=least, decoding=preprocessing.decoding)
    if notes is not None:
        notes.add(name or source_name(source), found.levels, found.remarks)
    return resize_and_crop(found.picture, preprocessing)


def resize_and_crop(picture: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Resize the shorter side and crop the centre: an RGB picture → uint8 (crop, crop, 3)."""
    middle = middle_of_strip(*picture.size)
    if middle != (0, 0, *picture.size):
        picture = picture.crop(middle)
    size = resized_size(picture.height, picture.width, preprocessing.resize_size)
    if size != (picture.height, picture.width):
        picture = picture.resize(size[::-1], _FILTERS[preprocessing.interpolation])
    return np.asarray(picture.crop(centre_crop_box(picture.height, picture.width, preprocessing.crop_size)))
