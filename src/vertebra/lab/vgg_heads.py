"""One small trunk of 3×3 convolutions with heads of different size, for claims about fully connected layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from .fit import Protocol
from .small_data import Images, ImageSet, digits
from .small_networks import SmallVGG

Arms = dict[str, Callable[..., SmallVGG]]

PADDED_TO = 12  # pixels: the digits have 8 × 8, so that a shift by two loses nothing
FEW = Protocol(epochs=60, lr=0.05, batch_size=50)  # on 10 images a class: 120 steps
MANY = Protocol(epochs=12, lr=0.05, batch_size=50)  # on 100 images a class: 240 steps


def vgg_with_head(
    hidden_size: int | None,
    cfg: Sequence[str | int] = (16, 16, "M", 32, 32),
    pooled: int = 6,
    *,
    num_classes: int = 10,
) -> SmallVGG:
    """A `SmallVGG` with global average pooling (None), or with two hidden fully connected layers of this width.

    Linear layers start as He et al. 2015 have it. N(0, 0.01), VGG's own, fits layers of 4096: narrower ones learn
    nothing for most of so short a training.
    """
    network = SmallVGG(cfg, hidden_size, pooled, num_classes=num_classes)
    for layer in network.classifier.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return network


def few_digits(seed: int, per_class: int = 10) -> Images:
    """So many training digits of each class, in black margins."""
    return digits().padded(PADDED_TO).split(seed).few(per_class)


def heads(*widths: int, trunk: Sequence[str | int] = (16, 16, "M", 32, 32), pooled: int = 6) -> Arms:
    """The same trunk with global pooling, and with hidden layers of each width, from the narrowest."""
    wide = {f"{width} wide": partial(vgg_with_head, width, trunk, pooled) for width in widths}
    return {"pooling": partial(vgg_with_head, None, trunk), **wide}


PER_CLASS = 30  # photos
PHOTOS, PHOTO_SEEDS = Protocol(epochs=30, lr=0.05, batch_size=50), 3
PHOTO_HEADS = heads(512, 2048, trunk=(16, 16, "M", 32, 32, "M", 64, 64, "M"), pooled=4)  # for 32 × 32 pixels


def few_photos(photos: ImageSet, seed: int) -> Images:
    """So many training photos of each class."""
    return photos.split(seed).few(PER_CLASS)
