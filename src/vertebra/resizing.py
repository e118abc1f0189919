"""Resize and crop an RGB picture: by Pillow, or several times faster by `vertebra-kernels` with the same pixels.

The package is taken where it is installed, once a process has resized a few photos, and only after its pixels have been
compared with those of the installed Pillow.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels: TypeAlias = NDArray[np.uint8]

# Name in the card -> Pillow's resampling filter.
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

# Photos of a process that Pillow resizes: for so few, loading the package would take longer than it saves.
_FIRST_BY_PILLOW = 8

# Larger pictures are Pillow's: copying their pixels into an array takes as long as Pillow's resizing.
_MOST_COPIED = 4_000_000  # pixels

# Heights and widths before and after, for the comparison: smaller, larger, and squashed.
_COMPARED = (((90, 120), (40, 53)), ((37, 53), (64, 92)), ((60, 90), (50, 50)))

_resized = itertools.count()


def resize_and_crop_rgb(
    picture: Image.Image, size: tuple[int, int], interpolation: str, box: tuple[int, int, int, int]
) -> Pixels:
    """Return the part `box` (left, top, right, bottom) of an RGB picture that is resized to height and width `size`."""
    if next(_resized) >= _FIRST_BY_PILLOW and (kernels := _kernels()) is not None:
        left, top, right, bottom = box
        inside = 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
        same = interpolation in kernels.FILTERS and kernels.is_resizable((picture.height, picture.width), size)
        image = _pixels(picture, kernels) if picture.mode == "RGB" and inside and same else None
        if image is not None:
            pixels: Pixels = kernels.resize(image, size, interpolation, box)
            pixels.flags.writeable = False  # as Pillow's
            return pixels
    return _by_pillow(picture, size, interpolation, box)


def _pixels(picture: Image.Image, kernels: Any) -> Pixels | None:
    """The picture's pixels, of 3 or 4 bytes; None where they would take too long to copy."""
    if 4 in getattr(kernels, "PIXEL_SIZES", ()):  # older versions have no such name
        from vertebra.pillow_memory import stored_pixels

        if (stored := stored_pixels(picture)) is not None:
            return stored
    return np.asarray(picture) if picture.width * picture.height <= _MOST_COPIED else None


def _by_pillow(
    picture: Image.Image, size: tuple[int, int], interpolation: str, box: tuple[int, int, int, int]
) -> Pixels:
    return np.asarray(picture.resize(size[::-1], _FILTERS[interpolation]).crop(box))


@functools.cache
def _kernels() -> Any:
    """The module that resizes, or None where it is not installed, cannot be loaded or gives other pixels."""
    if importlib.util.find_spec("vertebra_kernels") is None:
        return None
    try:
        from vertebra_kernels import resizing

        same = all(_gives_pillows_pixels(resizing, *one) for one in itertools.product(_COMPARED, resizing.FILTERS))
    except (ImportError, OSError):  # an older version; no library for this machine
        return None
    return resizing if same else None


def _gives_pillows_pixels(kernels: Any, sizes: tuple[tuple[int, int], tuple[int, int]], interpolation: str) -> bool:
    shape, size = sizes
    image = np.random.default_rng(0).integers(0, 2, (*shape, 3), np.uint8) * np.uint8(255)
    box = (1, 0, size[1], size[0] - 1)
    picture = Image.fromarray(image)
    right = _by_pillow(picture, size, interpolation, box)
    inputs = (image, _pixels(picture, kernels))
    return all(np.array_equal(kernels.resize(given, size, interpolation, box), right) for given in inputs)
