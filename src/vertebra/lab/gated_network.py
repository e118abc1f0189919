"""The small network with squeeze-excitation and SiLU whose gates are asked about, and its training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from .experiment import Setup
from .fit import Curve, Protocol
from .fit_all import Arm, Measure, fit_all
from .small_data import Images
from .small_networks import SmallMBConvNet
from .small_photos import digits_or_photos, photos_for

GATED: Arm = partial(SmallMBConvNet, squeeze_excitation=True, activation_layer=nn.SiLU)
PROTOCOL = Protocol(epochs=8)
LEAST_DATA = (2, photos_for(2))  # classes, and photos of each


def images_of(setup: Setup) -> Callable[[int], Images]:
    """The digits, or the user's photos at 32 × 32 pixels, split by a seed."""
    return digits_or_photos(setup.data, progress=setup.progress).split


def fit_gated(setup: Setup, images: Callable[[int], Images], measure: Measure, arm: Arm = GATED) -> list[Curve]:
    """Train it with each seed; `found` is what is measured on the trained network."""
    return fit_all(
        {"": arm}, range(setup.seeds), images, PROTOCOL, measure=measure, device=setup.device, progress=setup.progress
    )[""]
