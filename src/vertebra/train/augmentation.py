"""Augmentation with torchvision's transforms: random crops, flips, colours and erasing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vertebra.card import Preprocessing
from vertebra.errors import require_extra
from vertebra.pixels import resize_and_crop

from .schedule import AugmentationStrength
from .train_settings import Settings


def augment(
    picture: Image.Image, settings: Settings, preprocessing: Preprocessing, strength: AugmentationStrength
) -> Tensor:
    """Return the augmented picture as uint8 (H, W, 3); random choices come from torch's generator."""
    transform, erase = _transforms(
        settings.augment,
        settings.crop_scale,
        settings.erasing,
        strength.size,
        strength.magnitude,
        preprocessing.interpolation,
        tuple(255 * value for value in preprocessing.mean),
    )
    if transform is None:
        size = strength.size * preprocessing.resize_size // preprocessing.crop_size
        pixels: Any = resize_and_crop(picture, replace(preprocessing, crop_size=strength.size, resize_size=size))
    else:
        pixels = np.asarray(transform(picture))
    image = torch.from_numpy(np.array(pixels))
    return image if erase is None else erase(image.permute(2, 0, 1)).permute(1, 2, 0).contiguous()


@functools.lru_cache(maxsize=64)
def _transforms(
    kind: str,
    crop_scale: float,
    erasing: float,
    size: int,
    magnitude: int,
    interpolation: str,
    mean: tuple[float, ...],
) -> tuple[Callable[[Image.Image], Image.Image] | None, Callable[[Tensor], Tensor] | None]:
    if kind == "none" and not erasing:
        return None, None
    with require_extra("train", "training with augmentation"):
        from torchvision.transforms import InterpolationMode, v2
    erase = v2.RandomErasing(p=erasing, value=list(mean)) if erasing else None
    if kind == "none":
        return None, erase
    mode = InterpolationMode(interpolation)
    steps: list[Any] = [v2.RandomResizedCrop(size, scale=(crop_scale, 1.0), interpolation=mode)]
    if kind != "crop":
        steps.append(v2.RandomHorizontalFlip())
    if kind == "trivial":
        steps.append(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))
    elif kind == "rand":
        steps.append(v2.RandAugment(magnitude=magnitude, interpolation=InterpolationMode.BILINEAR))
    return v2.Compose(steps), erase
