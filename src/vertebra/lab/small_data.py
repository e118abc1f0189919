"""Small labelled images in memory, split by a seed: scikit-learn's digits, or those of `small_photos`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image

from vertebra.data.named_datasets import digit_pixels
from vertebra.errors import UsageError
from vertebra.pixels import Pixels, resize_and_crop
from vertebra.preprocessing import Preprocessing
from vertebra.train.metrics import Labels

VALIDATION_SHARE = 0.25  # of each class: 450 of the 1,797 digits


@dataclass(frozen=True, eq=False)
class Images:
    """Training and validation images of one split: uint8 (N, H, W, 3), and labels (N,) that index `classes`."""

    name: str
    classes: tuple[str, ...]
    seed: int  # of the split
    train: Pixels
    train_labels: Labels
    val: Pixels
    val_labels: Labels

    @property
    def size(self) -> int:
        """Height and width, in pixels."""
        return int(self.train.shape[1])

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Normalises each channel by the mean and standard deviation of the training images."""
        values = self.train.reshape(-1, 3) / 255
        mean, std = values.mean(axis=0), np.maximum(values.std(axis=0), 1 / 255)  # of a single colour: not 0
        return Preprocessing(self.size, self.size, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def few(self, per_class: int) -> Images:
        """The same validation images, and `per_class` training images of each class, chosen by the seed.

        Raises:
            UsageError: a class has fewer.
        """
        counts = np.bincount(self.train_labels, minlength=len(self.classes))
        if counts.min() < per_class:
            raise UsageError(
                f"{self.name} has {counts.min()} training images of class {self.classes[counts.argmin()]!r}, and "
                f"{per_class} of each class are needed. Give a folder with more photos of it, or without that class."
            )
        order = np.random.default_rng([self.seed, 1]).permutation(len(self.train_labels))
        own = [order[self.train_labels[order] == label][:per_class] for label in range(len(self.classes))]
        chosen = np.sort(np.concatenate(own))
        return replace(self, train=self.train[chosen], train_labels=self.train_labels[chosen])


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images before they are split."""

    name: str
    classes: tuple[str, ...]
    pixels: Pixels  # uint8 (N, H, W, 3)
    labels: Labels  # (N,)
    pictures: Labels  # (N,) equal numbers for duplicates and near-duplicates, which stay on one side of a split
    splits: tuple[str | None, ...]  # (N,) "train" or "val" where the data set says so

    @cached_property
    def sha256(self) -> str:
        """Of all that training could depend on; for keeping results."""
        digest = hashlib.sha256(repr((self.classes, self.pixels.shape, self.splits)).encode())
        for values in (self.pixels, self.labels, self.pictures):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def padded(self, size: int) -> ImageSet:
        """Black margins around the images up to `size` × `size` pixels."""
        return replace(self, pixels=padded(self.pixels, size))

    def resized(self, size: int) -> ImageSet:
        """The images resized to `size` × `size` pixels."""
        return replace(self, pixels=resized(self.pixels, size))

    def split(self, seed: int) -> Images:
        """Split by the seed, a quarter of each class for validation, unless the data set has that split.

        Raises:
            UsageError: all would be on one side, since they are duplicates of one another.
        """
        is_val = np.array([split == "val" for split in self.splits])
        if not is_val.any():
            is_val = _stratified(self.labels, self.pictures, seed)
        train, val = np.nonzero(~is_val)[0], np.nonzero(is_val)[0]
        if not len(train) or not len(val):
            raise UsageError(
                f"{self.name} has no photos for {'validation' if len(train) else 'training'}: duplicates stay "
                "together, and too many are duplicates. Give a folder with more different photos."
            )
        return Images(
            self.name, self.classes, seed, self.pixels[train], self.labels[train], self.pixels[val], self.labels[val]
        )  # fmt: skip


def _stratified(labels: Labels, pictures: Labels, seed: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which images are for validation, (N,): whole groups of duplicates, at most a quarter of each class."""
    is_val = np.zeros(len(labels), bool)
    random = np.random.default_rng([seed, 0])
    for label in np.unique(labels):
        own = np.nonzero(labels == label)[0]
        wanted = max(1, round(VALIDATION_SHARE * len(own)))
        for picture in random.permutation(np.unique(pictures[own])):
            group = np.nonzero(pictures == picture)[0]
            # A group with images of several classes belongs to the first one's.
            if labels[group[0]] == label and is_val[own].sum() + len(group) <= wanted:
                is_val[group] = True
    return is_val


def digits() -> ImageSet:
    """scikit-learn's 1,797 handwritten digits: 8 × 8 pixels, ten classes; grey, in three equal channels.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    grey, labels = digit_pixels()
    pixels = np.repeat(grey[..., None], 3, axis=3)
    names = tuple(str(label) for label in range(10))
    return ImageSet("digits", names, pixels, labels, np.arange(len(labels)), (None,) * len(labels))


def whole_image(size: int) -> Preprocessing:
    """The shorter side resized to `size` pixels, and the ends of the longer side cut off."""
    return Preprocessing(size, size, "bilinear")


def padded(pixels: Pixels, size: int) -> Pixels:
    """(N, H, W, 3) → (N, size, size, 3): black margins, of which an odd pixel goes right and below."""
    if size < max(pixels.shape[1:3]):
        raise UsageError(f"size is {size}; images of {pixels.shape[1]} × {pixels.shape[2]} pixels are larger.")
    margins = [((size - side) // 2, size - side - (size - side) // 2) for side in pixels.shape[1:3]]
    return np.pad(pixels, ((0, 0), *margins, (0, 0)))


def resized(pixels: Pixels, size: int) -> Pixels:
    """(N, H, W, 3) → (N, size, size, 3), as `pixels` resizes photos."""
    if pixels.shape[1:3] == (size, size):
        return pixels
    return np.stack([resize_and_crop(Image.fromarray(image), whole_image(size)) for image in pixels])


def shifted(pixels: Pixels, down: int, right: int) -> Pixels:
    """The images moved by so many pixels (up and left if negative), black where nothing is left: the same shape."""
    height, width = pixels.shape[1:3]
    if abs(down) >= height or abs(right) >= width:
        raise UsageError(f"images of {height} × {width} pixels cannot be shifted by {down} and {right} pixels.")
    moved = np.zeros_like(pixels)
    moved[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = pixels[
        :, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]
    return moved
