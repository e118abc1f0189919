"""DenseNet without its bottlenecks, without its halving transitions, or without both; in place.

The names of Huang et al. 2016 (https://arxiv.org/abs/1608.06993, §3): DenseNet-BC has both, -B bottlenecks alone, -C
halving alone. Other settings (growth rate, width of the bottleneck) are arguments of DenseNet itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vertebra.errors import UsageError
from vertebra.models import DenseNet
from vertebra.models.densenet import DenseBlock, DenseLayer, Transition

from .module_surgery import build_like


class PlainDenseLayer(nn.Module):
    """BN-ReLU-3×3, without a 1×1 in front: a list of (N, C_i, H, W) → (N, growth_rate, H, W)."""

    def __init__(self, num_input_features: int, growth_rate: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_input_features)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(num_input_features, growth_rate, kernel_size=3, padding=1, bias=False)
        self.drop_rate = drop_rate

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        """Concatenate, normalise, convolve."""
        x = features if isinstance(features, Tensor) else torch.cat(list(features), 1)
        out: Tensor = self.conv(self.relu(self.norm(x)))
        return F.dropout(out, self.drop_rate, self.training) if self.drop_rate > 0 else out


def simplify_densenet(network: nn.Module, *, bottleneck: bool = True, halving: bool = True) -> nn.Module:
    """Build the blocks and all behind them anew, without 1×1 in the layers or without halving in the transitions.

    Args:
        network: a DenseNet-BC as its constructor makes it; changed in place, and returned. The stem keeps its weights.
        bottleneck: whether layers keep their 1×1 convolution.
        halving: whether transitions halve the channels; without, they keep all and halve the resolution alone.

    Raises:
        UsageError: it is no DenseNet-BC, or one with `memory_efficient`, which has no form without bottleneck.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, DenseLayer)]
    if not isinstance(network, DenseNet) or not layers:
        raise UsageError(f"the network is a {type(network).__name__} without bottleneck layers; give a new DenseNet.")
    if not bottleneck and any(layer.memory_efficient for layer in layers):
        raise UsageError("memory_efficient is True; layers without bottleneck cannot be. Build the network without it.")
    features, classes = network.features, network.num_classes
    channels = int(network.stem_module.out_channels)  # type: ignore[arg-type]
    for name, old in list(features.named_children()):
        if isinstance(old, Transition):
            kept = channels // 2 if halving else channels
            setattr(features, name, build_like(network, old, partial(Transition, channels, kept)))
            channels = kept
        elif isinstance(old, DenseBlock):
            new = build_like(network, old, partial(_block, old, channels, bottleneck))
            setattr(features, name, new)
            channels = new.out_channels
    features.norm5 = build_like(network, features.norm5, partial(nn.BatchNorm2d, channels))  # type: ignore[arg-type]
    if classes:
        old = network.get_classifier()
        network.set_classifier(build_like(network, old, partial(nn.Linear, channels, classes)))
    return network


def _block(old: DenseBlock, channels: int, bottleneck: bool) -> DenseBlock:
    """A block with the settings of `old` for other input channels."""
    first: Any = next(iter(old.values()))
    growth = first.conv2.out_channels
    bn_size = first.conv1.out_channels // growth
    block = DenseBlock(len(old), channels, bn_size, growth, first.drop_rate, first.memory_efficient)
    if not bottleneck:
        for i, name in enumerate(list(block)):
            block[name] = PlainDenseLayer(channels + i * growth, growth, first.drop_rate)
    return block
