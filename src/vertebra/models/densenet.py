"""DenseNet: every layer takes the outputs of all layers before it, concatenated (Huang et al. 2016,
https://arxiv.org/abs/1608.06993).

Reusing features makes it small in parameters. It is not small in memory traffic: each layer reads all that came before,
so the memory traffic of a block of L layers is O(L²), and the network is slower than its FLOPs say.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .activation_checkpointing import checkpointed
from .build import build
from .convnet import ConvNet, Run
from .dense_training import can_fuse_block, can_fuse_transition, train_block, train_transition
from .published_weights import WeightsEnum, entry
from .registry import register_model

__all__ = [
    "DenseNet",
    "DenseNet121_Weights",
    "DenseNet161_Weights",
    "DenseNet169_Weights",
    "DenseNet201_Weights",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
]


# Table 1: growth rate k, layers in the four dense blocks, channels of the stem.
_TABLE = {
    121: (32, (6, 12, 24, 16), 64),
    161: (48, (6, 12, 36, 24), 96),
    169: (32, (6, 12, 32, 32), 64),
    201: (32, (6, 12, 48, 32), 64),
}


class _DenseLayer(nn.Module):
    """BN-ReLU-1×1, BN-ReLU-3×3 ("DenseNet-B"): a list of (N, C_i, H, W) → (N, growth_rate, H, W)."""

    def __init__(
        self, num_input_features: int, growth_rate: int, bn_size: int, drop_rate: float, memory_efficient: bool = False
    ) -> None:
        super().__init__()
        width = bn_size * growth_rate
        self.norm1 = nn.BatchNorm2d(num_input_features)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(num_input_features, width, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, growth_rate, kernel_size=3, padding=1, bias=False)
        self.drop_rate = float(drop_rate)
        self.memory_efficient = memory_efficient

    def _bottleneck(self, *features: Tensor) -> Tensor:
        out: Tensor = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return out

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        features = [features] if isinstance(features, Tensor) else features
        # The concatenation is cheap to make and dear to keep (Pleiss et al. 2017, https://arxiv.org/abs/1707.06990).
        if self.memory_efficient and any(feature.requires_grad for feature in features):
            # torchvision's running statistics take in each batch twice here, once more when it is computed again:
            # https://github.com/pytorch/vision/blob/v0.24.0/torchvision/models/densenet.py#L52-L58
            out = checkpointed(self._bottleneck, *features, norms=self.norm1)
        else:
            out = self._bottleneck(*features)
        out = self.conv2(self.relu2(self.norm2(out)))
        return F.dropout(out, self.drop_rate, self.training) if self.drop_rate > 0 else out


class _DenseBlock(nn.ModuleDict):
    """Layers that each add `growth_rate` channels: (N, C, H, W) → (N, C + num_layers · growth_rate, H, W)."""

    def __init__(
        self,
        num_layers: int,
        num_input_features: int,
        bn_size: int,
        growth_rate: int,
        drop_rate: float,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = num_input_features + num_layers * growth_rate
        for i in range(num_layers):
            width = num_input_features + i * growth_rate
            self[f"denselayer{i + 1}"] = _DenseLayer(width, growth_rate, bn_size, drop_rate, memory_efficient)

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self.values())
        if all(type(layer) is _DenseLayer for layer in layers) and can_fuse_block(layers, x):
            return train_block(layers, x)
        return self._layer_by_layer(x)

    def _layer_by_layer(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class _Transition(nn.Sequential):
    """Halves channels ("DenseNet-C", θ = 0.5) and resolution: (N, C, H, W) → (N, num_output_features, H/2, W/2)."""

    def __init__(self, num_input_features: int, num_output_features: int, memory_efficient: bool = False) -> None:
        super().__init__()
        self.memory_efficient = memory_efficient
        self.norm = nn.BatchNorm2d(num_input_features)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(num_input_features, num_output_features, kernel_size=1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if can_fuse_transition(self, x):
            return train_transition(self, x)
        out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return out


class DenseNet(ConvNet):
    """Table 1, DenseNet-BC. `growth_rate` is the paper's k, `bn_size` · k the width of a layer's 1×1 convolution.

    `drop_rate` drops values behind each layer; `memory_efficient` computes concatenations, norms and ReLUs again in the
    backward pass instead of keeping them; on a CPU no concatenation is made in the first place (`dense_training`).
    """

    min_size = 29
    stem_path = "features.conv0"

    def __init__(
        self,
        growth_rate: int = 32,
        block_config: Sequence[int] = (6, 12, 24, 16),
        num_init_features: int = 64,
        bn_size: int = 4,
        drop_rate: float = 0,
        num_classes: int = 1000,
        memory_efficient: bool = False,
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.conv0 = nn.Conv2d(in_channels, num_init_features, kernel_size=7, stride=2, padding=3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(num_init_features)
        self.features.relu0 = nn.ReLU(inplace=True)
        self.features.pool0 = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.blocks = len(block_config)
        channels = num_init_features
        for number, num_layers in enumerate(block_config, start=1):
            if number > 1:
                transition = _Transition(channels, channels // 2, memory_efficient)
                self.features.add_module(f"transition{number - 1}", transition)
                channels //= 2
            block = _DenseBlock(num_layers, channels, bn_size, growth_rate, drop_rate, memory_efficient)
            self.features.add_module(f"denseblock{number}", block)
            channels = block.out_channels
        self.features.norm5 = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)
        self._initialise()

    def forward_maps(self, x: Tensor, run: Run) -> Iterator[tuple[str, Tensor]]:
        """Shapes are DenseNet-121's for 224 × 224 pixels."""
        features = self.features
        yield "stem.relu0", (x := run(x, features.conv0, features.norm0, features.relu0))  # 64 × 112 × 112
        yield "stem", (x := run(x, features.pool0))  # 64 × 56 × 56
        for number in range(1, self.blocks + 1):
            if number > 1:
                x = run(x, features.get_submodule(f"transition{number - 1}"))  # half the channels, half the resolution
            x = run(x, features.get_submodule(f"denseblock{number}"))  # 256 × 56 × 56, 512 × 28 × 28, 1024 × 14 × 14
            if number == self.blocks:
                x = run(x, features.norm5, F.relu)  # 1024 × 7 × 7
            yield f"denseblock{number}", x

    def forward_body(self, x: Tensor) -> Tensor:
        # torchvision's ReLU is in place, which overwrites what a forward hook on norm5 was given.
        return F.relu(self.features(x))  # 1024 × 7 × 7

    def first_halvings(self) -> Sequence[nn.Module]:
        return self.stem_module, self.features.get_submodule("pool0")

    def pool(self, features: Tensor) -> Tensor:
        return torch.flatten(F.adaptive_avg_pool2d(features, (1, 1)), 1)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @classmethod
    def convert_state_dict(cls, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The published files say `denselayer1.norm.1.weight`, from when module names could have dots."""
        old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
        return OrderedDict((old.sub(r"\1\2", key), value) for key, value in state_dict.items())


# Public names for other packages of Vertebra; the classes keep torchvision's.
DenseLayer = _DenseLayer
DenseBlock = _DenseBlock
Transition = _Transition

_row = partial(
    entry,
    min_size=29,
    recipe="https://github.com/pytorch/vision/pull/116",
    docs="These weights are ported from LuaTorch.",
)


class DenseNet121_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("densenet121-a639ec97", params=7_978_856, acc=(74.434, 91.972), gmacs=2.834, mib=30.845)
    DEFAULT = IMAGENET1K_V1


class DenseNet161_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("densenet161-8d451a50", params=28_681_000, acc=(77.138, 93.560), gmacs=7.728, mib=110.369)
    DEFAULT = IMAGENET1K_V1


class DenseNet169_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("densenet169-b2777c0a", params=14_149_480, acc=(75.600, 92.806), gmacs=3.36, mib=54.708)
    DEFAULT = IMAGENET1K_V1


class DenseNet201_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("densenet201-c1103571", params=20_013_928, acc=(76.896, 93.370), gmacs=4.291, mib=77.373)
    DEFAULT = IMAGENET1K_V1


@register_model(DenseNet121_Weights)
def densenet121(*, weights: DenseNet121_Weights | None = None, progress: bool = True, **kwargs: Any) -> DenseNet:
    """DenseNet-121, k = 32: 8.0 M parameters, 2.8 GMACs."""
    return build(partial(DenseNet, *_TABLE[121]), DenseNet121_Weights, weights, progress, **kwargs)


@register_model(DenseNet161_Weights)
def densenet161(*, weights: DenseNet161_Weights | None = None, progress: bool = True, **kwargs: Any) -> DenseNet:
    """DenseNet-161, k = 48: 28.7 M parameters, 7.7 GMACs."""
    return build(partial(DenseNet, *_TABLE[161]), DenseNet161_Weights, weights, progress, **kwargs)


@register_model(DenseNet169_Weights)
def densenet169(*, weights: DenseNet169_Weights | None = None, progress: bool = True, **kwargs: Any) -> DenseNet:
    """DenseNet-169, k = 32: 14.1 M parameters, 3.4 GMACs."""
    return build(partial(DenseNet, *_TABLE[169]), DenseNet169_Weights, weights, progress, **kwargs)


@register_model(DenseNet201_Weights)
def densenet201(*, weights: DenseNet201_Weights | None = None, progress: bool = True, **kwargs: Any) -> DenseNet:
    """DenseNet-201, k = 32: 20.0 M parameters, 4.3 GMACs."""
    return build(partial(DenseNet, *_TABLE[201]), DenseNet201_Weights, weights, progress, **kwargs)
