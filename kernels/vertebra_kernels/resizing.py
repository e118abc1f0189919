"""Pillow's resizing of RGB images, pixel for pixel, of no more than a crop needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vertebra_kernels.shared_library import check_status, instruction_set_number, shared_library

Pixels = NDArray[np.uint8]

FILTERS = {"bilinear": 1, "bicubic": 2}
PIXEL_SIZES = (3, 4)  # bytes of a pixel


def is_resizable(shape: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether `resize` does what Pillow does for these heights and widths.

    Pillow resizes along rows first; from version 13 on, along columns where an image loses more than twice as many rows
    as columns. The two differ by rounding, and `resize` knows the first way alone.
    """
    fewer_rows, fewer_columns = shape[0] - size[0], shape[1] - size[1]
    return fewer_rows <= 0 or fewer_rows <= 2 * fewer_columns


def resize(
    image: Pixels,
    size: tuple[int, int],
    interpolation: str,
    box: tuple[int, int, int, int],
    instruction_set: str | None = None,
) -> Pixels:
    """Resize and crop: what `Image.resize` and `Image.crop` of Pillow give.

    Args:
        image: uint8 `(height, width, 3)`; or `(height, width, 4)`, as Pillow has RGB in memory, whose fourth byte is
            left out.
        size: Height and width that the whole image is resized to.
        interpolation: One of `FILTERS`.
        box: Left, top, right and bottom of the crop within the resized image.
        instruction_set: One of `INSTRUCTION_SETS`; None: the best one that this processor has.

    Raises:
        ValueError: An argument is outside its limits.
        MemoryError: There is not enough memory.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in PIXEL_SIZES:
        raise ValueError(f"the image is {image.dtype} {image.shape}, not uint8 (height, width, 3 or 4)")
    if interpolation not in FILTERS:
        raise ValueError(f"interpolation {interpolation!r} is none of {', '.join(FILTERS)}")
    if not is_resizable(image.shape[:2], size):
        raise ValueError(f"{image.shape[0]} x {image.shape[1]} pixels to {size[0]} x {size[1]}: Pillow's order varies")
    left, top, right, bottom = box
    if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
        raise ValueError(f"the box {box} is not within {size[1]} x {size[0]} pixels")
    image = np.ascontiguousarray(image)
    found = np.empty((bottom - top, right - left, 3), np.uint8)
    height, width, pixel_size = image.shape
    number = instruction_set_number(instruction_set)
    numbers = (pixel_size, height, width, *size, FILTERS[interpolation], top, left, bottom - top, right - left, number)
    check_status(shared_library().vk_resize(image.ctypes.data, *numbers, found.ctypes.data))
    return found
