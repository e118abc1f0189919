"""Gradients of a network by depth, and of neighbouring inputs; with and without its skip connections."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vertebra.errors import UsageError
from vertebra.introspect import (
    ablated_blocks,
    first_to_last_ratio,
    gradient_norms,
    input_gradient_correlation,
    noise_arc,
    residual_blocks,
    usable_statistics,
)

from .experiment import Figure, Measured
from .seed_statistics import over_seeds
from .small_networks import seeded
from .user_networks import random_images, small_images

BATCH, _SIDE = 16, 16
_DRAWS = 3  # of images and arcs
_POINTS, _DEGREES = 8, 0.5  # of the arc for networks of any size: gradients of ResNet-50 are unrelated 1.4° apart


@dataclass(frozen=True)
class Gradients:
    """What gradients say of a network. The two ratios are the first convolution's norm over the last one's."""

    ratio: float  # of the gradient of the output
    weight_ratio: float  # of the gradient of the weights
    cosine: float  # mean, of the input gradients of neighbouring points of an arc
    norms: tuple[float, ...]  # of the gradient of each layer's output over the last convolution's, as they run


def gradients_of(network: nn.Module, images: Tensor, arc: Tensor) -> Gradients:
    """Measure on a batch of images, whose statistics untrained batch norms have, and on the points of an arc."""
    with usable_statistics(network, images):
        gradients = gradient_norms(network, images)
        cosine = input_gradient_correlation(network, arc.to(images.device))
    last = [gradient.output for gradient in gradients if gradient.is_convolution][-1:]
    return Gradients(
        first_to_last_ratio(gradients, "output"),
        first_to_last_ratio(gradients),
        cosine,
        tuple(gradient.output / last[0] for gradient in gradients if last[0]),
    )


def gradients_of_seed(build: Callable[[], nn.Module], seed: int, device: str) -> Gradients:
    """Of a network for small images: the seed decides weights, images and the arc, of 64 points on a quarter circle."""
    network = seeded(build, seed).to(device)
    images = random_images(network, BATCH, _SIDE, seed)
    return gradients_of(network, images, noise_arc(images.shape[1:], 64, seed))


def exponents(cosines: Mapping[str, Sequence[float]]) -> list[float]:
    """Of each seed the slope of log cosine on log depth; NaN where a cosine is not positive."""
    depths = [math.log(int(depth)) for depth in cosines]
    logs = [[math.log(c) if c > 0 else math.nan for c in own] for own in zip(*cosines.values(), strict=True)]
    return [statistics.linear_regression(depths, own).slope for own in logs]


def network_gradients(network: nn.Module, device: str) -> Measured:
    """Gradients of any network on small images of noise, and of the same without its skips where it has any.

    Figures of the latter begin with "without skips, ", and so does its entry of the series `norms`.
    """
    batches = [small_images(network.to(device), BATCH, seed=draw) for draw in range(_DRAWS)]
    shape = batches[0].shape[1:]
    arcs = [noise_arc(shape, _POINTS, draw, degrees=_DEGREES) for draw in range(_DRAWS)]

    def gradients() -> list[Gradients]:
        return [gradients_of(network, images, arc) for images, arc in zip(batches, arcs, strict=True)]

    found = {"": gradients()}
    try:
        blocks = residual_blocks(network, batches[0])
    except UsageError:
        blocks = ()
    if blocks:
        with ablated_blocks(network, skips=blocks):
            found["without skips, "] = gradients()
    figures = {"side of the images": Figure(shape[-1], "pixels")}
    draws: dict[str, list[float]] = {}
    for kind, own in found.items():
        ratios = draws[f"{kind}first / last"] = [one.ratio for one in own]
        cosines = draws[f"{kind}cosine"] = [one.cosine for one in own]
        figures[f"{kind}first / last"] = Figure(statistics.median(ratios), "×", len(own))
        figures[f"{kind}cosine"] = over_seeds(cosines).figure()
        figures[f"{kind}weights, first / last"] = Figure(
            statistics.median(one.weight_ratio for one in own), "×", len(own)
        )
    return Measured(figures, {"norms": {kind: list(own[0].norms) for kind, own in found.items()}, "draws": draws})


def compare_draws(draws: Mapping[str, Sequence[float]], vanished: float) -> tuple[bool, bool] | None:
    """Whether gradients vanish without the skips and not with them, and whether they are more alike with them.

    In every draw of `network_gradients`. None where one is not finite, as at a last norm that begins at 0.

    Args:
        draws: its series.
        vanished: the largest ratio of first to last that counts as vanished.
    """
    names = ("first / last", "without skips, first / last", "cosine", "without skips, cosine")
    ratio, plain_ratio, cosine, plain_cosine = own = [draws[name] for name in names]
    if not all(math.isfinite(value) for values in own for value in values):
        return None
    alike = all(one > plain for one, plain in zip(cosine, plain_cosine, strict=True))
    return max(plain_ratio) < vanished <= min(ratio), alike
