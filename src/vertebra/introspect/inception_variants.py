"""Inception modules with one idea taken away, to be given to GoogLeNet's constructor.

`googlenet_with(DenseInception)` is the whole network. All take the arguments of
`Inception`, the columns of Table 1 (Szegedy et al. 2014), and have its output channels.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from vertebra.models.googlenet import BasicConv2d, GoogLeNet, Inception, InceptionAux
from vertebra.models.layers import Layer


class DenseInception(nn.Sequential):
    """One dense 3×3 instead of four branches: (N, in_channels, H, W) → (N, all branches' channels, H, W)."""

    def __init__(
        self,
        in_channels: int,
        ch1x1: int,
        ch3x3red: int,
        ch3x3: int,
        ch5x5red: int,
        ch5x5: int,
        pool_proj: int,
        conv_block: Layer | None = None,
    ) -> None:
        conv = conv_block or BasicConv2d
        out_channels = ch1x1 + ch3x3 + ch5x5 + pool_proj
        super().__init__(conv(in_channels, out_channels, kernel_size=3, padding=1))
        self.out_channels = out_channels


class ReducedInception(nn.Sequential):
    """A 1×1 to as many channels as both reductions have (`ch3x3red + ch5x5red`), then one dense 3×3."""

    def __init__(
        self,
        in_channels: int,
        ch1x1: int,
        ch3x3red: int,
        ch3x3: int,
        ch5x5red: int,
        ch5x5: int,
        pool_proj: int,
        conv_block: Layer | None = None,
    ) -> None:
        conv = conv_block or BasicConv2d
        out_channels = ch1x1 + ch3x3 + ch5x5 + pool_proj
        super().__init__(
            conv(in_channels, ch3x3red + ch5x5red, kernel_size=1),
            conv(ch3x3red + ch5x5red, out_channels, kernel_size=3, padding=1),
        )
        self.out_channels = out_channels


class InceptionWith5x5(Inception):
    """Inception with the paper's 5×5 where torchvision has a 3×3 (https://github.com/pytorch/vision/issues/906)."""

    def __init__(
        self,
        in_channels: int,
        ch1x1: int,
        ch3x3red: int,
        ch3x3: int,
        ch5x5red: int,
        ch5x5: int,
        pool_proj: int,
        conv_block: Layer | None = None,
    ) -> None:
        super().__init__(in_channels, ch1x1, ch3x3red, ch3x3, ch5x5red, ch5x5, pool_proj, conv_block)
        self.branch3[1] = (conv_block or BasicConv2d)(ch5x5red, ch5x5, kernel_size=5, padding=2)


class UnreducedInception(Inception):
    """Inception whose 3×3 and "5×5" read the input, without a 1×1 before it (Fig. 2a; the pooling keeps its 1×1)."""

    large_kernel = 3

    def __init__(
        self,
        in_channels: int,
        ch1x1: int,
        ch3x3red: int,
        ch3x3: int,
        ch5x5red: int,
        ch5x5: int,
        pool_proj: int,
        conv_block: Layer | None = None,
    ) -> None:
        super().__init__(in_channels, ch1x1, ch3x3red, ch3x3, ch5x5red, ch5x5, pool_proj, conv_block)
        conv, kernel = conv_block or BasicConv2d, self.large_kernel
        self.branch2 = nn.Sequential(conv(in_channels, ch3x3, kernel_size=3, padding=1))
        self.branch3 = nn.Sequential(conv(in_channels, ch5x5, kernel_size=kernel, padding=kernel // 2))


class UnreducedInceptionWith5x5(UnreducedInception):
    """UnreducedInception with true 5×5."""

    large_kernel = 5


def googlenet_with(inception: Layer, *, aux_logits: bool = False, **options: Any) -> GoogLeNet:
    """GoogLeNet with other modules, without the heads that run in training alone; options are those of `GoogLeNet`."""
    return GoogLeNet(aux_logits=aux_logits, blocks=(BasicConv2d, inception, InceptionAux), **options)
