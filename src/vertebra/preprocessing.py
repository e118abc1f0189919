"""How the input of a network is made of a photo: the `Preprocessing` record and its geometry, crop or whole.

One record for training, evaluation, export, prediction and the server. `pixels` makes the pixels that it asks for.
Standard library only.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Self

from vertebra.errors import ImageError, UsageError, suggest

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# How files are decoded to 8-bit RGB where there is more than one way. A card without the key is of rule 1, in which
# alpha that is 0 everywhere was laid on white and 16-bit values were of 16 bits whatever the file said.
DECODING_RULE = 2
BITS = (8, 16)  # the least and the most that `Decoding.bits` may be

# Where nothing says otherwise; 224 pixels of 256, as most ImageNet weights are published.
CROP_PCT = 0.875

# Limit of the pixels of an image, decoded or resized: Pillow's default, kept here so that no other code in the process
# can change it. About 13,400 × 13,400, below one gigabyte; a strip of 1 × 20,000 pixels is 4 GB once resized.
MAX_PIXELS = 178_956_970

# Images whose shorter side is no longer are small: they are not cropped, and networks are trained on them from scratch
# with a stem that keeps their resolution.
SMALL = 64

# Longer images, in multiples of the shorter side, lose their ends before they are resized.
_LONGEST = 16


@dataclass(frozen=True)
class Decoding:
    """How an image file becomes an RGB picture, as `vertebra.decoding` does it."""

    rule: int = DECODING_RULE
    bits: int | None = None  # white is 2**bits - 1 in 16-bit files that do not say their depth; None: 65,535


@dataclass(frozen=True, init=False)
class Preprocessing:
    """From an image file to the input of a network.

    The file is decoded to an RGB picture, the shorter side resized to `resize_size` pixels, the centre `crop_size` ×
    `crop_size` cut out, values scaled from 0–255 to 0–1, then `(value - mean) / std` for each channel.

    `Preprocessing(size=224, resize=256, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))`

    Args:
        crop_size: side of the network's input, in pixels; or `size`.
        resize_size: the shorter side before the centre is cut out, in pixels; or `resize`, or `crop_pct`. None: such
            that 0.875 of it is kept, 256 for 224.
        interpolation: "nearest", "bilinear" or "bicubic", as Pillow names them, or torchvision's `InterpolationMode`.
        mean: a number for each channel, or one for all; of values from 0 to 1.
        std: likewise.
        decoding: of files whose values may be read in more than one way.
        crop_pct: the share of the shorter side that is kept; `resize` is rounded down, as in timm.

    Raises:
        UsageError: a value is not allowed, is missing, or is given twice.
    """

    crop_size: int
    resize_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    decoding: Decoding

    def __init__(
        self,
        crop_size: int | None = None,
        resize_size: int | None = None,
        interpolation: Any = "bilinear",
        mean: float | Sequence[float] = IMAGENET_MEAN,
        std: float | Sequence[float] = IMAGENET_STD,
        decoding: Decoding = Decoding(),
        *,
        size: int | None = None,
        resize: int | None = None,
        crop_pct: float | None = None,
    ) -> None:
        crop_size = _pixels("size", size, "crop_size", crop_size)
        if crop_size is None:
            raise UsageError("a preprocessing needs the side of the network's input: Preprocessing(size=224, …).")
        resize_size = _pixels("resize", resize, "resize_size", resize_size)
        if crop_pct is not None and resize_size is not None:
            raise UsageError(
                f"crop_pct is {crop_pct!r} and resize {resize_size!r}; each gives the shorter side. Leave one out."
            )
        if crop_pct is not None:
            resize_size = resize_of(crop_size, crop_pct)
        elif resize_size is None:
            resize_size = round(crop_size / CROP_PCT)
        name = getattr(interpolation, "value", interpolation)  # torchvision gives an enum
        if name not in INTERPOLATIONS:
            hint = suggest(str(name), INTERPOLATIONS)
            raise UsageError(f"interpolation is {name!r}; allowed are {', '.join(INTERPOLATIONS)}. {hint}".strip())
        for field, value in {
            "crop_size": crop_size,
            "resize_size": resize_size,
            "interpolation": name,
            "mean": _channels("mean", mean),
            "std": _channels("std", std),
            "decoding": decoding,
        }.items():
            object.__setattr__(self, field, value)
        if 0 in self.std:
            raise UsageError(f"std is {self.std}; no channel can be divided by 0.")

    @classmethod
    def from_weights(cls, weights: Any) -> Self:
        """That of a member of a weights enum, ours or torchvision's, or of its `transforms()`.

        Raises:
            UsageError: it is something else, or its preprocessing is not supported.
        """
        if isinstance(found := getattr(weights, "preprocessing", None), cls):
            return found
        transforms = getattr(weights, "transforms", None)
        preset = transforms() if callable(transforms) else weights
        try:
            (size,), (resize,) = set(preset.crop_size), set(preset.resize_size)
            given = {"interpolation": preset.interpolation, "mean": preset.mean, "std": preset.std}
        except (AttributeError, TypeError, ValueError):
            raise UsageError(
                f"{_named(weights)} does not tell how its photos are prepared (crop_size, resize_size, interpolation, "
                "mean, std). Give a member of a classifier's weights enum, such as ResNet50_Weights.IMAGENET1K_V2, or "
                "write Preprocessing(size=…, resize=…, interpolation=…, mean=…, std=…)."
            ) from None
        return cls(size, resize, **given)

    @classmethod
    def from_timm(cls, model: Any) -> Self:
        """That of a timm network's `pretrained_cfg`, or of such a dict: as timm's `create_transform` has it.

        Raises:
            UsageError: it has none, or its preprocessing is not supported.
        """
        cfg = timm_config(model)
        if cfg is None:
            raise UsageError(
                f"a {type(model).__name__} has no pretrained_cfg to read. Write Preprocessing(size=…, resize=…, "
                "interpolation=…, mean=…, std=…)."
            )
        shape = tuple(cfg.get("input_size") or (3, 224, 224))
        mode = cfg.get("crop_mode") or "center"
        interpolation = cfg.get("interpolation") or "bicubic"
        unknown = ""
        if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
            unknown = f"input_size {shape}, and an exported file takes square RGB photos, (3, N, N)"
        elif mode != "center":
            unknown = (
                f"crop_mode {mode!r}, and here the shorter side is resized and the centre cut out (crop_mode 'center')"
            )
        elif interpolation not in INTERPOLATIONS:
            unknown = f"interpolation {interpolation!r}, and known here are {', '.join(INTERPOLATIONS)}"
        if unknown:
            raise UsageError(
                f"its pretrained_cfg says {unknown}. Where another way will do, write it: "
                "Preprocessing(size=…, resize=…, interpolation=…, mean=…, std=…)."
            )
        return cls(
            shape[1],
            resize_of(shape[1], cfg.get("crop_pct") or CROP_PCT),
            interpolation,
            cfg.get("mean") or IMAGENET_MEAN,
            cfg.get("std") or IMAGENET_STD,
        )


def training_preprocessing(
    published: Preprocessing, size: int | None, crop_pct: float, decoding: Decoding
) -> Preprocessing:
    """Crop or whole: the preprocessing of a network that is trained on one's own photos.

    Published weights cut off a border (224 pixels of 256). Here photos are by default not cropped: on Caltech-101 the
    accuracy of the probe is 95.0 % instead of 94.7, and 90.7 % instead of 88.8 with 10 photos a class
    (`bench/views.py`). `size` None is that of the weights; small images are never cropped.
    """
    size = size or published.crop_size
    resize_size = round(size / (crop_pct if size > SMALL else 1.0))
    return replace(published, crop_size=size, resize_size=resize_size, decoding=decoding)


def resized_size(height: int, width: int, target: int) -> tuple[int, int]:
    """(height, width) once the shorter side is `target` pixels: the longer one keeps the ratio, rounded down.

    The arithmetic of torchvision's `resize`, on which the published accuracies rest.

    Raises:
        ImageError: the picture is so narrow that the result would have more than `MAX_PIXELS`.
    """
    short, long = min(height, width), max(height, width)
    resized = int(target * long / short)
    if target * resized > MAX_PIXELS:
        raise ImageError(
            f"the picture is {width} × {height} pixels; with a shorter side of {target} it would have "
            f"{target * resized:,} pixels, and at most {MAX_PIXELS:,} are allowed. Cut out a less narrow part."
        )
    return (resized, target) if width <= height else (target, resized)


def centre_crop_box(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the centre `size` × `size` square, as Pillow's `crop` takes it.

    It reaches outside a smaller image, where pixels are 0 (black). The rounding is that of torchvision's `center_crop`.
    """
    left, top = _centred(width, size), _centred(height, size)
    return left, top, left + size, top + size


def _centred(length: int, size: int) -> int:
    return -((size - length) // 2) if length < size else round((length - size) / 2)


def middle_of_strip(width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what is resized of an image: all of it, but for long strips.

    A strip of 1 × 30,000 pixels would be gigabytes once it is resized, of which nearly all is then cut off.
    """
    beyond = max(0, (max(width, height) - _LONGEST * min(width, height)) // 2)
    x, y = (beyond, 0) if width > height else (0, beyond)
    return x, y, width - x, height - y


def timm_config(model: Any) -> Mapping[str, Any] | None:
    """The configuration of a timm network; None where it has none."""
    found: Any
    for found in (model, getattr(model, "pretrained_cfg", None), getattr(model, "default_cfg", None)):
        cfg = found.to_dict() if hasattr(found, "to_dict") else found
        if isinstance(cfg, Mapping) and any(name in cfg for name in ("input_size", "crop_pct", "mean")):
            return cfg
    return None


def _named(value: Any) -> str:
    return repr(value) if isinstance(value, str | Enum) else f"a {type(value).__name__}"


def resize_of(size: int, crop_pct: float) -> int:
    """The shorter side of which that share is kept, rounded down as timm does: 248 for 224 and 0.9."""
    if not 0 < crop_pct <= 1:
        raise UsageError(f"crop_pct is {crop_pct!r}; it is the share of the shorter side that is kept, above 0 to 1.")
    return math.floor(size / crop_pct)


def _pixels(name: str, value: Any, other_name: str, other: Any) -> int | None:
    """The side that is given under one of two names of the same thing."""
    if value is not None and other is not None:
        raise UsageError(f"{name} is {value!r} and {other_name} {other!r}; both mean the same. Leave one out.")
    if value is None:
        name, value = other_name, other
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < 1:
        raise UsageError(f"{name} is {value!r}; it is a side in pixels, a whole number of at least 1.")
    return operator.index(value)


def _channels(name: str, values: Any) -> tuple[float, ...]:
    """A number for each channel; one number is for all three."""
    try:
        single = isinstance(values, int | float)
        found = tuple(float(value) for value in ([values] * 3 if single else values))
    except (TypeError, ValueError):
        found = ()
    if not found or isinstance(values, str) or not all(map(math.isfinite, found)):
        raise UsageError(f"{name} is {values!r}; give three numbers, one a channel, as in {name}=(0.485, 0.456, 0.406)")
    return found
