"""Where activations have no slope: shares of values and of channels in a network; least value and slope of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from vertebra.introspect import activation_slopes, usable_statistics
from vertebra.models import ConvNet

from .experiment import Figure, Measured
from .fit import val_inputs
from .fit_all import Arm
from .seed_statistics import over_seeds
from .small_data import Images, digits
from .small_networks import seeded
from .user_networks import random_images

FLAT, DEAD = "values without slope", "dead channels"
# Functions by torch's names, and a common one of one's own.
RECTIFIERS, SMOOTH = ("relu", "relu6", "hardtanh"), ("silu", "swish")
_REACH, _STEP = 10, 1e-4  # of the grid, on both sides of 0


@dataclass(frozen=True)
class SlopeShares:
    """Shares, in %, over all activations of a network and all images."""

    flat: float  # values
    dead: float  # channels
    flat_by_function: Mapping[str, float]  # values, by the function's name in lower case


def slope_shares(network: nn.Module, images: Tensor) -> SlopeShares:
    """The shares in evaluation mode; batch norms that saw no image yet have the statistics of these.

    Raises:
        UsageError: the network has no activation.
    """
    with usable_statistics(network, images):
        found = activation_slopes(network, images)

    def flat(names: Iterable[str]) -> float:
        own = [a for a in found if a.function.lower() in names]
        return 100 * sum(a.flat_values for a in own) / sum(a.values for a in own)

    functions = dict.fromkeys(a.function.lower() for a in found)
    dead = 100 * sum(a.dead_channels for a in found) / sum(a.channels for a in found)
    return SlopeShares(flat(functions), dead, {name: flat([name]) for name in functions})


def val_shares(network: ConvNet, images: Images) -> SlopeShares:
    """The shares on validation images."""
    return slope_shares(network, val_inputs(network, images))


def untrained_shares(arm: Arm, seeds: int) -> list[SlopeShares]:
    """The shares of random weights on the digits' validation images, for each seed."""
    images = [digits().split(seed) for seed in range(seeds)]
    return [val_shares(seeded(partial(arm, num_classes=len(own.classes)), own.seed), own) for own in images]


def network_shares(name: str, network: nn.Module, device: str, count: int = 8) -> Measured:
    """The shares on `count` noise images as figures, also of each function; as series those of ReLUs and of SiLUs."""
    found = slope_shares(network.to(device), random_images(network, count))
    figures = {FLAT: Figure(found.flat, "%"), DEAD: Figure(found.dead, "%")}
    figures |= {f"{FLAT}, {function}": Figure(flat, "%") for function, flat in found.flat_by_function.items()}
    kinds = {"rectifiers": RECTIFIERS, "smooth": SMOOTH}
    return Measured(figures, {kind: [flat for function, flat in found.flat_by_function.items() if function in names]
                              for kind, names in kinds.items()})  # fmt: skip


def share_figures(shares: Mapping[str, Sequence[SlopeShares]], when: str = "") -> dict[str, Figure]:
    """Both shares of each arm over its seeds."""
    flat = {f"{arm}: {FLAT}{when}": over_seeds([own.flat for own in each]) for arm, each in shares.items()}
    dead = {f"{arm}: {DEAD}{when}": over_seeds([own.dead for own in each]) for arm, each in shares.items()}
    return {name: statistics.figure("%") for name, statistics in (flat | dead).items()}


def least_figures(name: str, activation: nn.Module) -> dict[str, Figure]:
    """The least value and slope of a function between -10 and 10, and where they are; slopes are autograd's."""
    count = round(_REACH / _STEP)
    x = torch.arange(-count, count + 1, dtype=torch.float64) / count * _REACH
    x.requires_grad_()
    y = activation(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    figures = {}
    for what, values in (("value", y.detach()), ("slope", slope)):
        place = int(values.argmin())
        figures[f"{name}: least {what}"] = Figure(float(values[place]))
        figures[f"{name}: least {what} at"] = Figure(float(x[place].detach()))
    return figures
