"""Random networks to calibrate on: the usual blocks, with random widths and sizes.

Single operations in a loop would be too fast: their weights stay in the cache. Inside a network an operation finds its
input in the cache, its weights in memory, and its input's layout as the operation before left it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[..., nn.Module]


class _Unit(nn.Sequential):
    """Convolution, norm, activation."""

    def __init__(
        self, inp: int, out: int, kernel: int, act: Activation | None, stride: int = 1, groups: int = 1
    ) -> None:
        layers = [nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]
        super().__init__(*layers, *([act(inplace=True)] if act else []))


class _Bottleneck(nn.Module):
    """1×1, k×k in groups, 1×1, sum, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        relu = nn.ReLU
        units = [_Unit(channels, width, 1, relu), _Unit(width, width, kernel, relu, groups=groups)]
        self.units = nn.Sequential(*units, _Unit(width, channels, 1, None))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.units(x).add_(x))


class _Residual(nn.Module):
    """One unit, and its input added behind the activation."""

    def __init__(self, channels: int, kernel: int, act: Activation) -> None:
        super().__init__()
        self.unit = _Unit(channels, channels, kernel, act)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.unit(x).add_(x)
        return out


class _Inverted(nn.Module):
    """1×1 that widens, depthwise k×k, squeeze-excitation where `squeeze` is not 0, linear 1×1, sum."""

    def __init__(self, channels: int, width: int, kernel: int, squeeze: int, act: Activation) -> None:
        super().__init__()
        self.widen = _Unit(channels, width, 1, act)
        self.depthwise = _Unit(width, width, kernel, act, groups=width)
        self.gate = None
        if squeeze:
            layers = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, squeeze, 1), act(inplace=True)]
            self.gate = nn.Sequential(*layers, nn.Conv2d(squeeze, width, 1), nn.Sigmoid())
        self.project = _Unit(width, channels, 1, None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.widen(x))
        if self.gate is not None:
            y = self.gate(y) * y
        out: Tensor = self.project(y).add_(x)
        return out


class _Dense(nn.Module):
    """Norm, ReLU, 1×1, norm, ReLU, 3×3, and the result beside the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.unit = _Unit(channels, 4 * growth, 1, nn.ReLU)
        self.conv = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.unit(self.relu(self.norm(x))))], 1)


class _Branches(nn.Module):
    """1×1, 3×3, and a max-pooling with a 1×1 behind it, side by side."""

    def __init__(self, channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        one, three, pooled = widths
        self.one = _Unit(channels, one, 1, nn.ReLU)
        self.three = nn.Sequential(_Unit(channels, three // 2, 1, nn.ReLU), _Unit(three // 2, three, 3, nn.ReLU))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _Unit(channels, pooled, 1, nn.ReLU))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.pool(x)], 1)


def random_network(seed: int, blocks: int = 4) -> tuple[nn.Module, int]:
    """A random network of that seed, and the side of its input in pixels."""
    draw = random.Random(seed)
    size = draw.choice((160, 192, 224, 256, 288))
    channels = draw.choice((16, 24, 32, 48, 64))
    act = draw.choice((nn.ReLU, nn.ReLU6, nn.SiLU))
    layers: list[nn.Module] = [_Unit(3, channels, draw.choice((3, 7)), act, stride=2)]
    side = size // 2
    while True:
        for _ in range(blocks):
            block, channels = _block(draw, channels, side, act)
            layers.append(block)
        if side <= 8:
            break
        wider = _round(channels * draw.uniform(0.8, 2.2), 1024)
        kernel = draw.choice((1, 3, 3))
        layers.append(draw.choice((_shrink_by_stride, _shrink_by_pooling))(draw, channels, wider, kernel))
        channels, side = wider, (side + 1) // 2
    hidden = draw.choice((512, 1024, 2048, 4096))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *head, nn.Linear(hidden, 1000)), size


def _block(draw: random.Random, channels: int, side: int, act: Activation) -> tuple[nn.Module, int]:
    """A block for a map of `side` pixels; the larger the map, the narrower, so that none takes all the time."""
    most = max(32, min(2048, int(2e6 / side**2)))
    kind = draw.choice(("plain", "residual", "bottleneck", "grouped", "inverted", "squeezed", "dense", "branches"))
    if kind == "plain":
        wider = _round(channels * draw.uniform(0.6, 1.6), most)
        return _Unit(channels, wider, draw.choice((3, 3, 3, 5)), act), wider
    if kind == "residual":
        return _Residual(channels, draw.choice((1, 3)), act), channels
    if kind in ("bottleneck", "grouped"):
        groups = draw.choice((8, 16, 32)) if kind == "grouped" else 1
        width = _round(channels * draw.uniform(0.25, 1.2), most, 32 if groups > 1 else 8)
        return _Bottleneck(channels, width, 3, groups), channels
    if kind in ("inverted", "squeezed"):
        width = _round(channels * draw.choice((2, 3, 4, 6)), most)
        squeeze = max(4, channels // 4) if kind == "squeezed" else 0
        return _Inverted(channels, width, draw.choice((3, 3, 5)), squeeze, act), channels
    if kind == "dense" and channels < most:
        growth = draw.choice((16, 32, 48))
        return _Dense(channels, growth), channels + growth
    widths = tuple(_round(channels * draw.uniform(0.2, 0.6), most) for _ in range(3))
    return _Branches(channels, widths), sum(widths)  # type: ignore[arg-type]


def _shrink_by_stride(draw: random.Random, channels: int, wider: int, kernel: int) -> nn.Module:
    return _Unit(channels, wider, kernel, nn.ReLU, stride=2)


def _shrink_by_pooling(draw: random.Random, channels: int, wider: int, kernel: int) -> nn.Module:
    pools = (nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 2), nn.AvgPool2d(2, 2))
    return nn.Sequential(draw.choice(pools), _Unit(channels, wider, 1, nn.ReLU))


def _round(value: float, most: int, step: int = 8) -> int:
    """A width as people choose them: a multiple of 8."""
    return max(step, int(min(value, most) / step + 0.5) * step)
