"""EfficientNet's blocks, MBConv (Tan & Le 2019) and FusedMBConv (Tan & Le 2021), and the rows that describe them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from vertebra.errors import UsageError

from .layers import Conv2dNormActivation, Layer, SqueezeExcitation, StochasticDepth, make_divisible


@dataclass
class BlockConfig:
    """One stage: a row of Table 1 of the EfficientNet paper, or of Table 4 of EfficientNetV2's."""

    expand_ratio: float
    kernel: int
    stride: int
    input_channels: int
    out_channels: int
    num_layers: int
    block: Any = None  # the class of its blocks, or a function that makes one

    @staticmethod
    def adjust_channels(channels: int, width_mult: float) -> int:
        return make_divisible(channels * width_mult, 8)


class MBConvConfig(BlockConfig):
    """A stage of MBConv blocks, scaled in width and depth."""

    def __init__(
        self,
        expand_ratio: float,
        kernel: int,
        stride: int,
        input_channels: int,
        out_channels: int,
        num_layers: int,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        block: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__(
            expand_ratio,
            kernel,
            stride,
            self.adjust_channels(input_channels, width_mult),
            self.adjust_channels(out_channels, width_mult),
            math.ceil(num_layers * depth_mult),
            block or MBConv,
        )


@dataclass
class FusedMBConvConfig(BlockConfig):
    """A stage of FusedMBConv blocks."""

    def __post_init__(self) -> None:
        self.block = self.block or FusedMBConv


class _Residual(nn.Module):
    """A branch, dropped at random in training, and a shortcut where the shape stays."""

    def __init__(self, cnf: BlockConfig, layers: list[nn.Module], stochastic_depth_prob: float) -> None:
        super().__init__()
        if cnf.stride not in (1, 2):
            raise UsageError(f"stride is {cnf.stride}; it must be 1 or 2.")
        self.use_res_connect = cnf.stride == 1 and cnf.input_channels == cnf.out_channels
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(stochastic_depth_prob)
        self.out_channels = cnf.out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        if self.use_res_connect:
            out = self.stochastic_depth(out)
            out += x
        return out


class MBConv(_Residual):
    """1×1 widens, depthwise k×k, squeeze-excitation, linear 1×1: (N, input, H, W) → (N, out, H/stride, W/stride)."""

    def __init__(
        self,
        cnf: BlockConfig,
        stochastic_depth_prob: float,
        norm_layer: Layer,
        se_layer: Layer | None = SqueezeExcitation,
        *,
        activation_layer: Layer = nn.SiLU,
        conv_layer: Layer = nn.Conv2d,
    ) -> None:
        conv = partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=activation_layer)
        width = cnf.adjust_channels(cnf.input_channels, cnf.expand_ratio)
        layers: list[nn.Module] = []
        if width != cnf.input_channels:
            layers.append(conv(cnf.input_channels, width, kernel_size=1))
        layers.append(conv(width, width, cnf.kernel, cnf.stride, groups=width, conv_layer=conv_layer))
        if se_layer is not None:
            # The squeeze is a quarter of the block's input, not of the widened channels.
            squeeze = max(1, cnf.input_channels // 4)
            layers.append(se_layer(width, squeeze, activation=partial(activation_layer, inplace=True)))
        layers.append(conv(width, cnf.out_channels, kernel_size=1, activation_layer=None))
        super().__init__(cnf, layers, stochastic_depth_prob)


class FusedMBConv(_Residual):
    """Dense k×k widens, linear 1×1 (one k×k alone where nothing is widened); shapes as MBConv's."""

    def __init__(self, cnf: FusedMBConvConfig, stochastic_depth_prob: float, norm_layer: Layer) -> None:
        conv = partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=nn.SiLU)
        width = cnf.adjust_channels(cnf.input_channels, cnf.expand_ratio)
        if width != cnf.input_channels:
            layers: list[nn.Module] = [
                conv(cnf.input_channels, width, cnf.kernel, cnf.stride),
                conv(width, cnf.out_channels, kernel_size=1, activation_layer=None),
            ]
        else:
            layers = [conv(cnf.input_channels, cnf.out_channels, cnf.kernel, cnf.stride)]
        super().__init__(cnf, layers, stochastic_depth_prob)
