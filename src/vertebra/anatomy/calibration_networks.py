"""Random networks for calibration: common blocks with random widths and sizes.

Single operations in a loop would be too fast, since their weights stay in the cache. In a network the input of an
operation is in the cache, in the layout that the previous operation wrote, and its weights are in memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from vertebra.models.layers import Conv2dNormActivation, SqueezeExcitation

Activation = Callable[..., nn.Module]


def _unit(
    inp: int, out: int, kernel: int, act: Activation | None, stride: int = 1, groups: int = 1
) -> Conv2dNormActivation:
    return Conv2dNormActivation(
        inp, out, kernel, stride, groups=groups, norm_layer=nn.BatchNorm2d, activation_layer=act
    )


class _Sum(nn.Module):
    """Layers with a residual connection, and optionally a ReLU after the sum."""

    def __init__(self, *layers: nn.Module, relu: bool = False) -> None:
        super().__init__()
        self.layers, self.relu = nn.Sequential(*layers), relu

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x).add_(x)
        return torch.relu_(out) if self.relu else out


class _Concat(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def random_network(seed: int, blocks: int = 4) -> tuple[nn.Module, int]:
    """A random network, and the side of its input in pixels."""
    draw = random.Random(seed)
    size = draw.choice((160, 192, 224, 256, 288))
    channels = draw.choice((16, 24, 32, 48, 64))
    act = draw.choice((nn.ReLU, nn.ReLU6, nn.SiLU))
    layers: list[nn.Module] = [_unit(3, channels, draw.choice((3, 7)), act, stride=2)]
    side = size // 2
    while True:
        for _ in range(blocks):
            block, channels = _block(draw, channels, side, act)
            layers.append(block)
        if side <= 8:
            break
        wider = _round(channels * draw.uniform(0.8, 2.2), 1024)
        kernel = draw.choice((1, 3, 3))
        if draw.choice(("stride", "pooling")) == "stride":
            layers.append(_unit(channels, wider, kernel, nn.ReLU, stride=2))
        else:
            pools = (nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 2), nn.AvgPool2d(2, 2))
            layers += [draw.choice(pools), _unit(channels, wider, 1, nn.ReLU)]
        channels, side = wider, (side + 1) // 2
    hidden = draw.choice((512, 1024, 2048, 4096))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *head, nn.Linear(hidden, 1000)), size


def _block(draw: random.Random, channels: int, side: int, act: Activation) -> tuple[nn.Module, int]:
    """A random block and its output channels. Larger maps get narrower blocks, so that none dominates the time."""
    max_width = max(32, min(2048, int(2e6 / side**2)))
    kind = draw.choice(("plain", "residual", "bottleneck", "grouped", "inverted", "squeezed", "dense", "branches"))
    if kind == "plain":
        wider = _round(channels * draw.uniform(0.6, 1.6), max_width)
        return _unit(channels, wider, draw.choice((3, 3, 3, 5)), act), wider
    if kind == "residual":
        return _Sum(_unit(channels, channels, draw.choice((1, 3)), act)), channels
    if kind in ("bottleneck", "grouped"):
        groups = draw.choice((8, 16, 32)) if kind == "grouped" else 1
        width = _round(channels * draw.uniform(0.25, 1.2), max_width, 32 if groups > 1 else 8)
        units: list[nn.Module] = [_unit(channels, width, 1, nn.ReLU), _unit(width, width, 3, nn.ReLU, groups=groups)]
        return _Sum(*units, _unit(width, channels, 1, None), relu=True), channels
    if kind in ("inverted", "squeezed"):
        width = _round(channels * draw.choice((2, 3, 4, 6)), max_width)
        kernel = draw.choice((3, 3, 5))
        units = [_unit(channels, width, 1, act), _unit(width, width, kernel, act, groups=width)]
        if kind == "squeezed":
            units.append(SqueezeExcitation(width, max(4, channels // 4), partial(act, inplace=True)))
        return _Sum(*units, _unit(width, channels, 1, None)), channels
    if kind == "dense" and channels < max_width:
        growth = draw.choice((16, 32, 48))
        before = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), _unit(channels, 4 * growth, 1, nn.ReLU)]
        layers = nn.Sequential(*before, nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False))
        return _Concat(nn.Identity(), layers), channels + growth
    one, three, pooled = (_round(channels * draw.uniform(0.2, 0.6), max_width) for _ in range(3))
    stacked = nn.Sequential(_unit(channels, three // 2, 1, nn.ReLU), _unit(three // 2, three, 3, nn.ReLU))
    pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _unit(channels, pooled, 1, nn.ReLU))
    return _Concat(_unit(channels, one, 1, nn.ReLU), stacked, pool), one + three + pooled


def _round(value: float, max_width: int, step: int = 8) -> int:
    return max(step, int(min(value, max_width) / step + 0.5) * step)
