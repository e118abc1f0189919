"""The record that travels with a network: how its input is made (and, in exported files, all else one must know).

Standard library only: training, export, the runtime and the server read the same record, so that a deployed network
sees the pixels it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

from vertebra.errors import ImageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """From an RGB picture to the input of a network.

    The shorter side is resized to `resize_size` pixels, the centre `crop_size` × `crop_size` cut out, values scaled
    from 0–255 to 0–1, then `(value - mean) / std` for each channel.
    """

    crop_size: int
    resize_size: int = 256
    interpolation: str = "bilinear"  # as Pillow names them: "nearest", "bilinear", "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


# The size from which Pillow refuses to decode: a strip of 1 × 20,000 pixels is a small file, and 4 GB once resized.
MAX_RESIZED_PIXELS = 178_956_970


def resized_size(height: int, width: int, target: int) -> tuple[int, int]:
    """(height, width) once the shorter side is `target` pixels: the longer one keeps the ratio, rounded down.

    The arithmetic of torchvision's `resize`, on which the published accuracies rest.

    Raises:
        ImageError: the picture is so narrow that the result would have more than `MAX_RESIZED_PIXELS`.
    """
    short, long = min(height, width), max(height, width)
    resized = int(target * long / short)
    if target * resized > MAX_RESIZED_PIXELS:
        raise ImageError(
            f"the picture is {width} × {height} pixels; with a shorter side of {target} it would have "
            f"{target * resized:,} pixels, and at most {MAX_RESIZED_PIXELS:,} are allowed. Cut out a less narrow part."
        )
    return (resized, target) if width <= height else (target, resized)


def centre_crop_box(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the centre `size` × `size` square, as Pillow's `crop` takes it.

    It reaches outside a picture that is smaller; what is outside is 0 (black). The rounding is that of torchvision's
    `center_crop`: an odd rest goes to the even side when cutting, and to the right and bottom when filling.
    """
    left, top = _centred(width, size), _centred(height, size)
    return left, top, left + size, top + size


def _centred(length: int, size: int) -> int:
    return -((size - length) // 2) if length < size else round((length - size) / 2)
