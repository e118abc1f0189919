"""Replaces MBConv by FusedMBConv and back, by stage, and adds or removes squeeze-excitation; in place.

Tan & Le 2021, https://arxiv.org/abs/2104.00298, Fig. 2 and Table 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from vertebra.models.layers import Conv2dNormActivation, Conv2dSame, SqueezeExcitation
from vertebra.models.mbconv import FusedMBConv, FusedMBConvConfig, MBConv, MBConvConfig
from vertebra.models.mobilenetv2 import InvertedResidual

from .block_swaps import replace_activations
from .module_surgery import Stages, build_like, convolution_like, norm_like, replace_modules


@dataclass(frozen=True)
class _Settings:
    """What a block was built with, read off its layers."""

    input_channels: int
    width: int
    out_channels: int
    spatial: nn.Conv2d  # its convolution in space
    norm: nn.Module
    activation: type[nn.Module]
    drop: float

    @classmethod
    def of(cls, block: Any) -> _Settings:
        layers = [layer for layer in block.block if isinstance(layer, Conv2dNormActivation)]
        is_fused = isinstance(block, FusedMBConv)
        first: Any = layers[0][0]
        last: Any = layers[-1][0]
        spatial: Any = first if is_fused else layers[-2][0]
        return cls(
            first.in_channels,
            first.in_channels if is_fused and len(layers) == 1 else last.in_channels,
            block.out_channels,
            spatial,
            layers[0][1],
            type(layers[0][2]),
            block.stochastic_depth.p,
        )

    def fill(self, config: Any, kernel: int | None) -> Any:
        """The config with these settings; not by its constructor, which rounds channels."""
        config.expand_ratio = self.width / self.input_channels
        config.kernel = self.spatial.kernel_size[0] if kernel is None else kernel
        config.stride = self.spatial.stride[0]
        config.input_channels, config.out_channels = self.input_channels, self.out_channels
        return config


def fuse_mbconv(network: nn.Module, stages: Stages = None, kernel: int | None = None) -> nn.Module:
    """Replace MBConv by FusedMBConv: one dense k×k for the 1×1 and the depthwise k×k, and no squeeze-excitation.

    Expansion, stride, channels, norm, activation and stochastic depth stay.

    Args:
        network: changed in place, and returned.
        stages: names or numbers, `(1, 2, 3)` or `("stage1",)`; None: all.
        kernel: of the dense convolution; None: that of the depthwise one.

    Raises:
        UsageError: there is no MBConv, or no such stage.
    """

    def build(block: MBConv) -> nn.Module:
        settings = _Settings.of(block)

        def make() -> FusedMBConv:
            config = settings.fill(FusedMBConvConfig(1, 3, 1, 8, 8, 1), kernel)
            fused = FusedMBConv(config, settings.drop, norm_like(settings.norm))
            if isinstance(settings.spatial, Conv2dSame):
                first: Any = fused.block[0]
                first[0] = convolution_like(first[0], Conv2dSame)
            replace_activations(fused, settings.activation)
            return fused

        return build_like(network, block, make)

    return replace_modules(network, "MBConv", lambda module: type(module) is MBConv, build, stages)


def separate_mbconv(
    network: nn.Module, stages: Stages = None, kernel: int | None = None, squeeze_excitation: bool = True
) -> nn.Module:
    """Replace FusedMBConv by MBConv: 1×1, depthwise k×k, squeeze-excitation, 1×1. Arguments as of `fuse_mbconv`.

    Raises:
        UsageError: there is no FusedMBConv, or no such stage.
    """

    def build(block: FusedMBConv) -> nn.Module:
        settings = _Settings.of(block)

        def make() -> MBConv:
            return MBConv(
                settings.fill(MBConvConfig(1, 3, 1, 8, 8, 1), kernel),
                settings.drop,
                norm_like(settings.norm),
                SqueezeExcitation if squeeze_excitation else None,
                activation_layer=settings.activation,
                conv_layer=type(settings.spatial),
            )

        return build_like(network, block, make)

    return replace_modules(network, "FusedMBConv", lambda module: type(module) is FusedMBConv, build, stages)


def remove_squeeze_excitation(network: nn.Module, stages: Stages = None) -> nn.Module:
    """Take squeeze-excitation out of MBConv and InvertedResidual; all other weights stay.

    Raises:
        UsageError: there is none.
    """

    def build(layers: nn.Sequential) -> nn.Sequential:
        kept = [layer for layer in layers if not isinstance(layer, SqueezeExcitation)]
        return nn.Sequential(*kept).train(layers.training)

    return _edit_branches(network, "squeeze-excitation", True, build, stages)


def add_squeeze_excitation(network: nn.Module, stages: Stages = None) -> nn.Module:
    """Put squeeze-excitation behind each depthwise convolution of MBConv and InvertedResidual that has none.

    As in EfficientNet, the squeeze is a quarter of the block's input channels. All other weights stay.

    Raises:
        UsageError: there is no such block.
    """

    def build(layers: nn.Sequential) -> nn.Sequential:
        convs = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)]
        activation = next(type(layer[2]) for layer in layers if isinstance(layer, Conv2dNormActivation))
        squeeze = max(1, convs[0].in_channels // 4)
        make = partial(SqueezeExcitation, convs[-1].in_channels, squeeze, partial(activation, inplace=True))
        # Behind the depthwise convolution, which is the last with a norm and an activation of its own.
        position = 1 + max(i for i, layer in enumerate(layers) if _is_depthwise(layer))
        added = build_like(network, layers, make)
        return nn.Sequential(*layers[:position], added, *layers[position:]).train(layers.training)

    return _edit_branches(network, "depthwise block without squeeze-excitation", False, build, stages)


def _is_depthwise(layer: Any) -> bool:
    convolution: Any = layer[0] if isinstance(layer, Conv2dNormActivation) else layer
    return isinstance(convolution, nn.Conv2d) and convolution.groups == convolution.in_channels > 1


def _edit_branches(network: nn.Module, what: str, gated: bool, build: Any, stages: Stages) -> nn.Module:
    """Replace the layers of each depthwise block with (`gated`) or without squeeze-excitation."""

    def is_kind(block: nn.Module) -> bool:
        if not isinstance(block, MBConv | InvertedResidual):
            return False
        branch: Any = block.block if isinstance(block, MBConv) else block.conv
        return gated == any(isinstance(layer, SqueezeExcitation) for layer in branch)

    def edit(block: Any) -> nn.Module:
        name = "block" if isinstance(block, MBConv) else "conv"
        setattr(block, name, build(getattr(block, name)))
        found: nn.Module = block
        return found

    return replace_modules(network, what, is_kind, edit, stages)
