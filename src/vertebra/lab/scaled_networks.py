"""EfficientNet-B0 scaled in one way alone, and a small network scaled in four ways to about equal MACs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from vertebra.anatomy import inspect
from vertebra.errors import VertebraError
from vertebra.models.efficientnet import scaled_b0
from vertebra.models.state_dict import meta_build

from .experiment import Setup
from .fit import Protocol
from .fit_all import fit_all
from .small_networks import SmallMBConvNet
from .small_photos import photos

Scale = Callable[[float, float], nn.Module]  # width and depth, as multiples → a network
B0_SIZE = 224
ALONE = {"width × 2": (2.0, 1.0, 1), "depth × 4": (1.0, 4.0, 1), "resolution × 2": (1.0, 1.0, 2)}
CLASSES, PER_CLASS = 20, 40  # photos, of which three quarters are trained on
# Another crop of the pictures of Faces, in Caltech-101.
WITHOUT = ("Faces_easy",)
PROTOCOL = Protocol(epochs=10)


@dataclass(frozen=True)
class Small:
    """A small network: channels of its first stage, blocks a stage, and the side of its images."""

    width: int
    repeats: int
    size: int

    def build(self, num_classes: int) -> SmallMBConvNet:
        """With squeeze-excitation and SiLU, as EfficientNet's blocks."""
        return SmallMBConvNet(
            self.width, repeats=self.repeats, squeeze_excitation=True, activation_layer=nn.SiLU, num_classes=num_classes
        )

    def macs(self) -> float:
        """For one image, in millions."""
        with meta_build():
            network = self.build(CLASSES)
        return inspect(network, self.size).macs / 1e6


BASE = Small(8, 1, 16)
# Scaled so that their MACs are nearest to four times the base's.
ARMS = {
    "width": Small(17, 1, 16),
    "depth": Small(8, 4, 16),
    "resolution": Small(8, 1, 32),
    "compound": Small(10, 2, 18),
}


def macs_of_single_scalings(scale: Scale = scaled_b0) -> dict[str, float]:
    """MACs of B0 scaled in one way alone, over those of B0."""
    found = {}
    with meta_build():
        base = inspect(scale(1, 1), B0_SIZE).macs
        for name, (width, depth, resolution) in ALONE.items():
            found[name] = inspect(scale(width, depth), B0_SIZE * resolution).macs / base
    return found


def runs_at_b0_size(scale: Scale = scaled_b0) -> bool:
    """Whether B0 scaled as B7, whose images have 600 × 600 pixels, runs on those of B0 as well."""
    with meta_build():
        network = scale(2.0, 3.1)
    try:
        inspect(network, B0_SIZE)
    except VertebraError:
        return False
    return True


def accuracies(data: Path, setup: Setup, arms: Mapping[str, Small]) -> dict[str, list[float]]:
    """Train each arm on the user's photos at its own resolution; validation accuracy in %, by seed."""
    largest = max(arm.size for arm in arms.values())
    images = photos(
        data, largest, classes=CLASSES, per_class=3 * PER_CLASS // 4, max_per_class=PER_CLASS, without=WITHOUT,
        progress=setup.progress,
    )  # fmt: skip
    found = {}
    for name, arm in arms.items():
        curves = fit_all(
            {name: arm.build}, range(setup.seeds), images.resized(arm.size).split, PROTOCOL, device=setup.device,
            progress=setup.progress,
        )  # fmt: skip
        found[name] = [100 * curve.val_accuracy[-1] for curve in curves[name]]
    return found
