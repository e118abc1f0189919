"""From a photo to the input of a network: decoded, resized and cropped as the `Preprocessing` record says.

Training, evaluation, prediction, the server and `weights.transforms()` all do so here: the same pixels everywhere.
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
    """Decode, resize and crop a photo to the network's input: uint8 (crop, crop, 3), RGB.

    With `scaled`, a JPEG at least four times as large as needed is decoded at 1/2, 1/4 or 1/8 of its size, no smaller
    than twice the size that it is then resized to. A photo of 2,000 × 3,000 pixels then takes 13 ms instead of 71, but
    its pixels change: over 390 photos, enlarged to that size, EfficientNet-Lite0's probabilities changed by 0.009
    (median) and 0.14 (at most), and the best class of ten.

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
