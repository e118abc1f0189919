"""A photo or a tensor → what a network takes: torchvision's classification preset, bit for bit, without torchvision."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vertebra.card import Preprocessing
from vertebra.decoding_notes import DecodingNotes
from vertebra.errors import UsageError, warn
from vertebra.pixels import network_pixels
from vertebra.preprocessing import center_crop_box
from vertebra.units import counted


class InterpolationMode(Enum):
    """Named and printed as torchvision's; the value is what a card holds."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class ImageClassification(nn.Module):
    """Resize the shorter side (or squash), cut out the centre, scale to 0–1, normalise.

    A PIL image or a tensor (C, H, W) → float32 (C, crop, crop); a batch (N, C, H, W) → (N, C, crop, crop). Integer
    tensors span their type's range, floating-point ones 0–1.

    Where the preprocessing is for three channels, a PIL image becomes the pixels that `vertebra predict` and training
    make of its file: upright as its EXIF says, transparency on white, palettes, CMYK and 16 bits to RGB
    (`vertebra.pixels`). On an upright RGB picture all this does nothing, and the numbers are torchvision's. Give the
    picture as `PIL.Image.open` returns it: once it is loaded or converted, some of what its file says is lost.
    A warning names 16-bit pictures that seem to use fewer bits. For one channel, or four, the picture's own channels
    are used as they are.

    Args:
        preprocessing: the sizes and numbers.
        antialias: whether tensors are smoothed when shrunk, as pictures always are.

    Raises:
        UsageError: a setting or an input is not allowed.
        ImageError: a PIL image without pixels, or whose file is damaged; a tensor so narrow that the resized picture
            would fill the memory (of a picture the middle is taken).
    """

    def __init__(self, preprocessing: Preprocessing, *, antialias: bool | None = True) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        # Lists, as torchvision keeps them.
        self.crop_size = [preprocessing.crop_size]
        self.resize_size = [preprocessing.resize_size]
        self.mean = list(preprocessing.mean)
        self.std = list(preprocessing.std)
        self.interpolation = InterpolationMode(preprocessing.interpolation)
        self.antialias = antialias

    def forward(self, img: Image.Image | Tensor) -> Tensor:
        img = _to_unit_range(self._crop_tensor(img) if isinstance(img, Tensor) else self._crop_picture(img))
        self._check_channels(img.shape[-3])
        mean, std = (
            torch.as_tensor(v, dtype=img.dtype, device=img.device).view(-1, 1, 1) for v in (self.mean, self.std)
        )
        return img.sub(mean).div_(std)

    def _current(self) -> Preprocessing:
        """The preprocessing with the attributes that torchvision's class has, which may have been changed."""
        return replace(
            self.preprocessing,
            crop_size=self.crop_size[0],
            resize_size=self.resize_size[0],
            interpolation=self.interpolation.value,
        )

    def _crop_picture(self, img: Any) -> Tensor:
        """A PIL image → (C, crop, crop) of its own type."""
        if not hasattr(img, "getbands"):
            raise UsageError(
                f"the input is a {type(img).__name__}; allowed are a PIL image and a tensor (C, H, W) or (N, C, H, W). "
                "Open a file with PIL.Image.open(path)."
            )
        if len(self.mean) == 3:
            now = self._current()
            notes = DecodingNotes(now.decoding)
            cut = network_pixels(img, now, notes=notes)
            if (bits := notes.suggested) is not None:
                warn(
                    f"the 16-bit values of a picture stay below {2**bits:,} where white is 65,535: nearly black. If "
                    f"{bits} bits are used, give transforms() decoding=vertebra.card.Decoding(bits={bits}); if it is "
                    "dark indeed, bits=16."
                )
            return torch.as_tensor(np.array(cut)).permute(2, 0, 1)
        size = self._current().resized(img.height, img.width)
        img = img.resize(size[::-1], Image.Resampling[self.interpolation.name])
        img = img.crop(center_crop_box(img.height, img.width, self.crop_size[0]))
        pixels = torch.as_tensor(np.array(img))
        return pixels.view(img.height, img.width, len(img.getbands())).permute(2, 0, 1)

    def _crop_tensor(self, img: Tensor) -> Tensor:
        """(…, H, W) → (…, crop, crop) of the same type."""
        if img.ndim not in (3, 4) or not img.numel():
            raise UsageError(
                f"the input is a tensor of shape {tuple(img.shape)}; allowed are (C, H, W) and (N, C, H, W), not empty."
            )
        size = self._current().resized(img.shape[-2], img.shape[-1])
        if size != tuple(img.shape[-2:]):
            img = self._resize_tensor(img, size)
        height, width = img.shape[-2:]
        left, top, right, bottom = center_crop_box(height, width, self.crop_size[0])
        if right > width or bottom > height:
            img = F.pad(img, (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0)))
        left, top = max(left, 0), max(top, 0)
        return img[..., top : top + self.crop_size[0], left : left + self.crop_size[0]]

    def _resize_tensor(self, img: Tensor, size: tuple[int, int]) -> Tensor:
        mode, dtype = self.interpolation.value, img.dtype
        smooth = mode != "nearest"
        batch = img if img.ndim == 4 else img.unsqueeze(0)
        if dtype not in (torch.float32, torch.float64):
            batch = batch.to(torch.float32)
        corners, antialias = False if smooth else None, bool(self.antialias) and smooth
        batch = F.interpolate(batch, size=size, mode=mode, align_corners=corners, antialias=antialias)
        if mode == "bicubic" and dtype == torch.uint8:
            batch = batch.clamp(0, 255)  # a cubic overshoots at edges
        # torchvision rounds these and cuts off the fraction of others.
        if dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
            batch = batch.round()
        batch = batch.to(dtype)
        return batch if img.ndim == 4 else batch.squeeze(0)

    def _check_channels(self, channels: int) -> None:
        if len(self.mean) not in (1, channels):
            raise UsageError(
                f"the image has {counted(channels, 'channel')} and the preprocessing is for {len(self.mean)}. "
                "Turn the image to RGB, or give as many means and standard deviations as channels."
            )

    def __repr__(self) -> str:
        names = ("crop_size", "resize_size", "mean", "std", "interpolation")
        return "\n    ".join(["ImageClassification(", *(f"{name}={getattr(self, name)}" for name in names)]) + "\n)"

    def describe(self) -> str:
        """One paragraph for a person: what comes in and what is done to it."""
        sides = "Both sides are" if self.preprocessing.crop_mode == "squash" else "The shorter side is"
        return (
            f"Takes a PIL image, a tensor (C, H, W) or a batch (N, C, H, W). {sides} resized to "
            f"resize_size={self.resize_size} with interpolation={self.interpolation} and the centre "
            f"crop_size={self.crop_size} cut out. The values are scaled to [0.0, 1.0], then normalised with "
            f"mean={self.mean} and std={self.std}."
        )


def _to_unit_range(img: Tensor) -> Tensor:
    """Any type → float32, integers from their range to 0–1."""
    if img.is_floating_point():
        return img.to(torch.float32)
    largest = 1 if img.dtype == torch.bool else torch.iinfo(img.dtype).max
    return img.to(torch.float32) / float(largest)
