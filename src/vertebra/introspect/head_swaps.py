"""Gives a network global average pooling and one linear layer, or VGG's fully connected layers; in place."""

from __future__ import annotations

from torch import nn

from vertebra.errors import UsageError, require_positive_int
from vertebra.models import ConvNet

from .module_surgery import build_like


def pool_globally(network: nn.Module) -> nn.Module:
    """Replace fully connected layers by global average pooling and one linear layer of random weights.

    Raises:
        UsageError: it is none of Vertebra's networks, or does not pool by a module (DenseNet, MobileNetV2: globally).
    """
    checked = _with_pooling(network)
    channels, classes = checked.num_features, checked.num_classes
    checked.avgpool = nn.AdaptiveAvgPool2d((1, 1))
    _set_head(checked, build_like(checked, checked.head_module, lambda: nn.Linear(channels, classes)))
    return checked


def add_fully_connected_layers(
    network: nn.Module, hidden_size: int = 4096, pooled_size: int = 7, dropout: float = 0.5
) -> nn.Module:
    """Replace pooling and classifier by VGG's: pooling to 7 × 7, two layers of 4096, and the classifier.

    Raises:
        UsageError: as `pool_globally`, or a size below 1.
    """
    checked = _with_pooling(network)
    hidden, side = require_positive_int("hidden_size", hidden_size), require_positive_int("pooled_size", pooled_size)
    channels, classes = checked.num_features, checked.num_classes

    def make() -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(channels * side * side, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(p=dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(p=dropout),
            nn.Linear(hidden, classes),
        )

    checked.avgpool = nn.AdaptiveAvgPool2d((side, side))
    _set_head(checked, build_like(checked, checked.head_module, make))
    return checked


def _with_pooling(network: nn.Module) -> ConvNet:
    if isinstance(network, ConvNet) and isinstance(getattr(network, "avgpool", None), nn.Module):
        return network
    raise UsageError(
        f"the network is a {type(network).__name__}, whose pooling cannot be replaced; VGG's, GoogLeNet's, ResNet's "
        "and EfficientNet's can."
    )


def _set_head(network: ConvNet, head: nn.Module) -> None:
    if isinstance(dropout := getattr(network, "dropout", None), nn.Dropout):
        dropout.p = 0.0  # GoogLeNet's, which is in front of the head
    setattr(network, network.head_name, head)
