"""The `Preprocessing` record: resize, center crop and normalization of a photo, and the sizes that follow from it.

Training, evaluation, export, prediction and the server share this record; `pixels.resize_and_crop` applies it. Standard
library only.
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
# Names as in timm. "center": the shorter side is resized, which keeps the aspect ratio, and the crop cuts off the ends
# of the longer side; "squash": both sides are resized to the same length.
CROP_MODES = ("center", "squash")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Version of the conversion from a file to 8-bit RGB. Cards without a `decoding` key mean version 1, which laid fully
# transparent images on white and ignored a bit depth below 16 that the file declares.
DECODING_VERSION = 2
BITS = (8, 16)  # the allowed range of `Decoding.bits`

# The default: 224 of 256 pixels, as for most published ImageNet weights.
CROP_PCT = 0.875

# A narrow image grows when resized: 1 × 20,000 pixels would become 4 GB. For input files see `decoding.MAX_PIXELS`.
MAX_RESIZED_PIXELS = 178_956_970

# Up to this shorter side, images are not cropped, and training from scratch uses a stem without downsampling.
SMALL = 64

# Images with a larger aspect ratio lose their ends before they are resized.
_MAX_ASPECT_RATIO = 16


@dataclass(frozen=True)
class Decoding:
    """How an image file becomes an RGB picture, as `vertebra.decoding` does it."""

    rule: int = DECODING_VERSION  # the version; the card's key is "rule"
    bits: int | None = None  # white is 2**bits - 1 in 16-bit files that do not declare their depth; None: 65,535


@dataclass(frozen=True, init=False)
class Preprocessing:
    """From an image file to the input of a network.

    Decode the file to RGB, resize its shorter side to `resize_size` (both sides with `crop_mode="squash"`), center-crop
    `crop_size` × `crop_size`, scale the values from 0–255 to 0–1, then apply `(value - mean) / std` to each channel.

    `Preprocessing(size=224, resize=256, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))`

    Args:
        crop_size: side of the network's input, in pixels; or `size`.
        resize_size: the shorter side before the center crop, in pixels; or `resize`, or `crop_pct`. None: crop_pct is
            0.875, which is 256 for 224.
        interpolation: "nearest", "bilinear" or "bicubic", as Pillow names them, or torchvision's `InterpolationMode`.
        mean: one number per channel, or one for all, for values from 0 to 1.
        std: likewise.
        decoding: how ambiguous files are decoded.
        crop_mode: "center" or "squash", as timm names them: whether the aspect ratio is kept.
        crop_pct: `crop_size / resize_size`; `resize_size` is rounded down, as in timm.

    Raises:
        UsageError: a value is not allowed, is missing, or is given twice.
    """

    crop_size: int
    resize_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    decoding: Decoding
    crop_mode: str

    def __init__(
        self,
        crop_size: int | None = None,
        resize_size: int | None = None,
        interpolation: Any = "bilinear",
        mean: float | Sequence[float] = IMAGENET_MEAN,
        std: float | Sequence[float] = IMAGENET_STD,
        decoding: Decoding = Decoding(),
        crop_mode: str = "center",
        *,
        size: int | None = None,
        resize: int | None = None,
        crop_pct: float | None = None,
    ) -> None:
        crop_size = _resolve_side("size", size, "crop_size", crop_size)
        if crop_size is None:
            raise UsageError("a preprocessing needs the side of the network's input: Preprocessing(size=224, …).")
        resize_size = _resolve_side("resize", resize, "resize_size", resize_size)
        if crop_pct is not None and resize_size is not None:
            raise UsageError(
                f"crop_pct is {crop_pct!r} and resize {resize_size!r}; each gives the shorter side. Leave one out."
            )
        if crop_pct is not None:
            resize_size = resize_size_of(crop_size, crop_pct)
        elif resize_size is None:
            resize_size = round(crop_size / CROP_PCT)
        name = getattr(interpolation, "value", interpolation)  # torchvision gives an enum
        if name not in INTERPOLATIONS:
            hint = suggest(str(name), INTERPOLATIONS)
            raise UsageError(f"interpolation is {name!r}; allowed are {', '.join(INTERPOLATIONS)}. {hint}".strip())
        if crop_mode not in CROP_MODES:
            raise UsageError(f"crop_mode is {crop_mode!r}; allowed are {' and '.join(CROP_MODES)}.")
        for field, value in {
            "crop_size": crop_size,
            "resize_size": resize_size,
            "interpolation": name,
            "mean": _parse_channels("mean", mean),
            "std": _parse_channels("std", std),
            "decoding": decoding,
            "crop_mode": crop_mode,
        }.items():
            object.__setattr__(self, field, value)
        if 0 in self.std:
            raise UsageError(f"std is {self.std}; no channel can be divided by 0.")

    @classmethod
    def from_weights(cls, weights: Any) -> Self:
        """Read the preprocessing of a weights enum member, ours or torchvision's, or of its `transforms()`.

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
                f"{_describe(weights)} has no preprocessing to read (crop_size, resize_size, interpolation, mean, std)."
                " Give a member of a classifier's weights enum, such as ResNet50_Weights.IMAGENET1K_V2, or "
                "write Preprocessing(size=…, resize=…, interpolation=…, mean=…, std=…)."
            ) from None
        return cls(size, resize, **given)

    @classmethod
    def from_timm(cls, model: Any) -> Self:
        """Read a timm network's `pretrained_cfg`, or such a dict, as timm's `create_transform` does.

        Raises:
            UsageError: there is none, or it is not supported.
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
        elif mode not in CROP_MODES:
            unknown = f"crop_mode {mode!r}, and known here are {', '.join(CROP_MODES)}"
        elif interpolation not in INTERPOLATIONS:
            unknown = f"interpolation {interpolation!r}, and known here are {', '.join(INTERPOLATIONS)}"
        if unknown:
            raise UsageError(
                f"its pretrained_cfg says {unknown}. Where another way will do, write it: "
                "Preprocessing(size=…, resize=…, interpolation=…, mean=…, std=…)."
            )
        return cls(
            shape[1],
            resize_size_of(shape[1], cfg.get("crop_pct") or CROP_PCT),
            interpolation,
            cfg.get("mean") or IMAGENET_MEAN,
            cfg.get("std") or IMAGENET_STD,
            crop_mode=mode,
        )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a picture before the center crop; an `ImageError` as of `resized_size`."""
        if self.crop_mode == "squash":
            return self.resize_size, self.resize_size
        return resized_size(height, width, self.resize_size)

    def describe(self) -> str:
        """What is done to a picture, in a few words."""
        if self.crop_mode == "center":
            sides = f"shorter side to {self.resize_size} pixels"
        else:
            sides = f"squashed to {self.resize_size} × {self.resize_size} pixels"
        is_whole = self.crop_mode == "squash" and self.resize_size == self.crop_size
        crop = "the whole picture" if is_whole else f"centre {self.crop_size} × {self.crop_size}"
        return f"{sides} ({self.interpolation}), {crop}"


def training_preprocessing(
    published: Preprocessing, size: int | None, crop_pct: float, decoding: Decoding, crop_mode: str = "center"
) -> Preprocessing:
    """The resize and center crop of a network that is trained on the user's photos.

    With `crop_pct=1.0` (the default of training), the shorter side is resized to the input size, so that the center
    crop cuts only the ends of the longer side, and with `crop_mode="squash"` nothing. Published weights have 0.875.
    `bench/views.py` compares the three. `size` None is the size of `published`; up to `SMALL` pixels, crop_pct is
    always 1.0.
    """
    size = size or published.crop_size
    resize_size = round(size / (crop_pct if size > SMALL else 1.0))
    return replace(published, crop_size=size, resize_size=resize_size, decoding=decoding, crop_mode=crop_mode)


def resized_size(height: int, width: int, target: int) -> tuple[int, int]:
    """(height, width) after the shorter side is resized to `target` pixels; the longer side is rounded down.

    Same arithmetic as torchvision's `resize`, on which the published accuracies depend.

    Raises:
        ImageError: the result would have more than `MAX_RESIZED_PIXELS`.
    """
    short, long = min(height, width), max(height, width)
    resized = int(target * long / short)
    if target * resized > MAX_RESIZED_PIXELS:
        raise ImageError(
            f"the picture is {width} × {height} pixels; with a shorter side of {target} it would have "
            f"{target * resized:,} pixels, and at most {MAX_RESIZED_PIXELS:,} are allowed. Cut out a less narrow part."
        )
    return (resized, target) if width <= height else (target, resized)


def center_crop_box(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the `size` × `size` center crop, for Pillow's `crop`.

    Outside a smaller image the pixels are 0 (black). Rounds as torchvision's `center_crop` does.
    """
    left, top = _centred(width, size), _centred(height, size)
    return left, top, left + size, top + size


def _centred(length: int, size: int) -> int:
    return -((size - length) // 2) if length < size else round((length - size) / 2)


def strip_crop_box(width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the part to resize: the whole image unless it is a long strip.

    A strip of 1 × 30,000 pixels would take gigabytes when resized, and the center crop would discard nearly all of it.
    """
    beyond = max(0, (max(width, height) - _MAX_ASPECT_RATIO * min(width, height)) // 2)
    x, y = (beyond, 0) if width > height else (0, beyond)
    return x, y, width - x, height - y


def timm_config(model: Any) -> Mapping[str, Any] | None:
    """The configuration of a timm network, or None."""
    found: Any
    for found in (model, getattr(model, "pretrained_cfg", None), getattr(model, "default_cfg", None)):
        cfg = found.to_dict() if hasattr(found, "to_dict") else found
        if isinstance(cfg, Mapping) and any(name in cfg for name in ("input_size", "crop_pct", "mean")):
            return cfg
    return None


def _describe(value: Any) -> str:
    return repr(value) if isinstance(value, str | Enum) else f"a {type(value).__name__}"


def resize_size_of(size: int, crop_pct: float) -> int:
    """The `resize_size` for a crop of `size`, rounded down as in timm: 248 for 224 and 0.9."""
    if not 0 < crop_pct <= 1:
        raise UsageError(f"crop_pct is {crop_pct!r}; it is the share of the shorter side that is kept, above 0 to 1.")
    return math.floor(size / crop_pct)


def _resolve_side(name: str, value: Any, other_name: str, other: Any) -> int | None:
    """The side in pixels, from either of its two argument names."""
    if value is not None and other is not None:
        raise UsageError(f"{name} is {value!r} and {other_name} {other!r}; both mean the same. Leave one out.")
    if value is None:
        name, value = other_name, other
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < 1:
        raise UsageError(f"{name} is {value!r}; it is a side in pixels, a whole number of at least 1.")
    return operator.index(value)


def _parse_channels(name: str, values: Any) -> tuple[float, ...]:
    """One number per channel; a single number is repeated for all three."""
    try:
        single = isinstance(values, int | float)
        found = tuple(float(value) for value in ([values] * 3 if single else values))
    except (TypeError, ValueError):
        found = ()
    if not found or isinstance(values, str) or not all(map(math.isfinite, found)):
        raise UsageError(f"{name} is {values!r}; give three numbers, one a channel, as in {name}=(0.485, 0.456, 0.406)")
    return found
