"""VGG: nothing but 3×3 convolutions, deeper and deeper (Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556).

Two stacked 3×3 see as far as one 5×5, three as far as one 7×7, with fewer weights and more non-linearities. The price
is behind the convolutions: the first fully connected layer alone holds 103 M of VGG-16's 138 M parameters.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from vertebra.errors import UsageError

from .convnet import ConvNet
from .published_weights import REFERENCES, WeightsEnum, entry
from .registry import build, register_model

__all__ = [
    "VGG",
    "VGG11_Weights",
    "VGG11_BN_Weights",
    "VGG13_Weights",
    "VGG13_BN_Weights",
    "VGG16_Weights",
    "VGG16_BN_Weights",
    "VGG19_Weights",
    "VGG19_BN_Weights",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]

# Columns of Table 1; a number is a 3×3 convolution of that width, "M" halves the resolution.
cfgs: dict[str, list[str | int]] = {
    "A": [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    "B": [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    "D": [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
    "E": [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"],
}


def make_layers(cfg: list[str | int], batch_norm: bool = False, in_channels: int = 3) -> nn.Sequential:
    """The convolutional part of a column of Table 1: (N, in_channels, H, W) → (N, 512, H/32, W/32)."""
    layers: list[nn.Module] = []
    for width in cfg:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
            continue
        layers.append(nn.Conv2d(in_channels, width, kernel_size=3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU(inplace=True))
        in_channels = width
    return nn.Sequential(*layers)


class VGG(ConvNet):
    """Convolutions in groups that each end in a max-pooling, then three fully connected layers.

    Pooling to 7 × 7 before the fully connected layers lets other sizes than the paper's 224 × 224 in.
    """

    min_size = 32
    _body = "features"
    _stem = "features.0"

    def __init__(
        self, features: nn.Module, num_classes: int = 1000, init_weights: bool = True, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))  # 512 × 7 × 7 → 25088
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(p=dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(p=dropout),
            nn.Linear(4096, num_classes),
        )
        self._list_stages()
        if init_weights:
            self._initialise()

    def _list_stages(self) -> None:
        """One stage a group of convolutions: for 224 × 224, "stage1" is 64 × 112 × 112, "stage5" 512 × 7 × 7."""
        if not isinstance(self.features, nn.Sequential):
            raise UsageError(
                f"features is a {type(self.features).__name__}; VGG takes what make_layers(cfgs[…]) returns."
            )
        group: list[str] = []
        channels, stride = 0, 1
        for index, layer in enumerate(self.features):
            group.append(f"features.{index}")
            if isinstance(layer, nn.Conv2d):
                channels = layer.out_channels
            elif isinstance(layer, nn.MaxPool2d):
                stride *= 2
                self._stage(f"stage{len(self._stages) + 1}", group, channels, stride)
                group = []
        if group:
            self._stage(f"stage{len(self._stages) + 1}", group, channels, stride)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


def _vgg(cfg: str, batch_norm: bool, in_channels: int = 3, **options: Any) -> VGG:
    return VGG(make_layers(cfgs[cfg], batch_norm, in_channels), **options)


_row = partial(
    entry,
    min_size=32,
    recipe=f"{REFERENCES}#alexnet-and-vgg",
    docs="These weights were trained from scratch by using a simplified training recipe.",
)


class VGG11_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg11-8a719046.pth", 132_863_336, 69.020, 88.628, 7.609, 506.84)
    DEFAULT = IMAGENET1K_V1


class VGG11_BN_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg11_bn-6002323d.pth", 132_868_840, 70.370, 89.810, 7.609, 506.881)
    DEFAULT = IMAGENET1K_V1


class VGG13_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg13-19584684.pth", 133_047_848, 69.928, 89.246, 11.308, 507.545)
    DEFAULT = IMAGENET1K_V1


class VGG13_BN_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg13_bn-abd245e5.pth", 133_053_736, 71.586, 90.374, 11.308, 507.59)
    DEFAULT = IMAGENET1K_V1


class VGG16_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg16-397923af.pth", 138_357_544, 71.592, 90.382, 15.47, 527.796)
    IMAGENET1K_FEATURES = _row(
        "vgg16_features-amdegroot-88682ab5.pth",
        138_357_544,
        float("nan"),
        float("nan"),
        15.47,
        527.802,
        classes=False,
        mean=(0.48235, 0.45882, 0.40784),
        std=(1 / 255, 1 / 255, 1 / 255),
        recipe="https://github.com/amdegroot/ssd.pytorch#training-ssd",
        docs="Only the features module has valid values: these weights extract features and cannot classify. They were "
        "trained with the paper's standardisation of the input.",
    )
    DEFAULT = IMAGENET1K_V1


class VGG16_BN_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg16_bn-6c64b313.pth", 138_365_992, 73.360, 91.516, 15.47, 527.866)
    DEFAULT = IMAGENET1K_V1


class VGG19_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg19-dcbb9e9d.pth", 143_667_240, 72.376, 90.876, 19.632, 548.051)
    DEFAULT = IMAGENET1K_V1


class VGG19_BN_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg19_bn-c79401a0.pth", 143_678_248, 74.218, 91.842, 19.632, 548.143)
    DEFAULT = IMAGENET1K_V1


@register_model(VGG11_Weights)
def vgg11(*, weights: VGG11_Weights | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-11, column A: 132.9 M parameters, 7.6 GMACs."""
    return build(partial(_vgg, "A", False), VGG11_Weights, weights, progress, **kwargs)


@register_model(VGG11_BN_Weights)
def vgg11_bn(*, weights: VGG11_BN_Weights | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-11 with batch norm, which the paper did not have yet."""
    return build(partial(_vgg, "A", True), VGG11_BN_Weights, weights, progress, **kwargs)


@register_model(VGG13_Weights)
def vgg13(*, weights: VGG13_Weights | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-13, column B: 133.0 M parameters, 11.3 GMACs."""
    return build(partial(_vgg, "B", False), VGG13_Weights, weights, progress, **kwargs)


@register_model(VGG13_BN_Weights)
def vgg13_bn(*, weights: VGG13_BN_Weights | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-13 with batch norm."""
    return build(partial(_vgg, "B", True), VGG13_BN_Weights, weights, progress, **kwargs)


@register_model(VGG16_Weights)
def vgg16(*, weights: VGG16_Weights | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-16, column D: 138.4 M parameters, 15.5 GMACs."""
    return build(partial(_vgg, "D", False), VGG16_Weights, weights, progress, **kwargs)


@register_model(VGG16_BN_Weights)
def vgg16_bn(*, weights: VGG16_BN_Weights | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-16 with batch norm."""
    return build(partial(_vgg, "D", True), VGG16_BN_Weights, weights, progress, **kwargs)


@register_model(VGG19_Weights)
def vgg19(*, weights: VGG19_Weights | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-19, column E: 143.7 M parameters, 19.6 GMACs."""
    return build(partial(_vgg, "E", False), VGG19_Weights, weights, progress, **kwargs)


@register_model(VGG19_BN_Weights)
def vgg19_bn(*, weights: VGG19_BN_Weights | None = None, progress: bool = True, **kwargs: Any) -> VGG:
    """VGG-19 with batch norm."""
    return build(partial(_vgg, "E", True), VGG19_BN_Weights, weights, progress, **kwargs)
