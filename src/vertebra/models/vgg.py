"""VGG: nothing but 3×3 convolutions, deeper and deeper (Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556).

Two stacked 3×3 have the receptive field of one 5×5, three that of one 7×7, with fewer weights and more
non-linearities. The price is behind the convolutions: the first fully connected layer alone holds 103 M of VGG-16's
138 M parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from vertebra.errors import UsageError

from .build import build
from .convnet import ConvNet, Run
from .published_weights import REFERENCES, WeightsEnum, entry
from .registry import register_model

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

    pooled_size = 512 * 7 * 7
    hidden_size = 4096  # of the first two fully connected layers
    min_size = 32
    stem_path = "features.0"

    def __init__(
        self, features: nn.Module, num_classes: int = 1000, init_weights: bool = True, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if not isinstance(features, nn.Sequential):
            raise UsageError(f"features is a {type(features).__name__}; VGG takes what make_layers(cfgs[…]) returns.")
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(self.pooled_size, self.hidden_size),
            nn.ReLU(inplace=True),
            nn.Dropout(p=dropout),
            nn.Linear(self.hidden_size, self.hidden_size),
            nn.ReLU(inplace=True),
            nn.Dropout(p=dropout),
            nn.Linear(self.hidden_size, num_classes),
        )
        if init_weights:
            self._initialise()

    def forward_maps(self, x: Tensor, run: Run) -> Iterator[tuple[str, Tensor]]:
        """Two maps a group, before its pooling and behind: 64 × 224 × 224 and 64 × 112 × 112, 128 × 112 × 112 and
        128 × 56 × 56, 256 × 56 × 56 and 256 × 28 × 28, 512 × 28 × 28 and 512 × 14 × 14, 512 × 14 × 14 and 512 × 7 × 7.
        """
        for number, (convolutions, pooling) in enumerate(self._groups(), start=1):
            yield f"stage{number}.relu", (x := run(x, *convolutions))
            yield f"stage{number}", (x := run(x, *pooling))

    def forward_body(self, x: Tensor) -> Tensor:
        body: Tensor = self.features(x)  # 512 × 7 × 7
        return body

    def _groups(self) -> Iterator[tuple[list[nn.Module], list[nn.Module]]]:
        """The layers up to each pooling, and the pooling, or what `reset_resolution` put in its place."""
        group: list[nn.Module] = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d) or (self.low_resolution and isinstance(layer, nn.Identity)):
                yield group, [layer]
                group = []
            else:
                group.append(layer)
        if group:
            yield group, []

    def first_halvings(self) -> Sequence[nn.Module]:
        return [layer for layer in self.features if isinstance(layer, nn.MaxPool2d)][:2]


def _vgg(cfg: str, batch_norm: bool, in_channels: int = 3, **options: Any) -> VGG:
    return VGG(make_layers(cfgs[cfg], batch_norm, in_channels), **options)


_row = partial(
    entry,
    min_size=32,
    recipe=f"{REFERENCES}#alexnet-and-vgg",
    docs="These weights were trained from scratch by using a simplified training recipe.",
)


class VGG11_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg11-8a719046", params=132_863_336, acc=(69.020, 88.628), gmacs=7.609, mib=506.84)
    DEFAULT = IMAGENET1K_V1


class VGG11_BN_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg11_bn-6002323d", params=132_868_840, acc=(70.370, 89.810), gmacs=7.609, mib=506.881)
    DEFAULT = IMAGENET1K_V1


class VGG13_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg13-19584684", params=133_047_848, acc=(69.928, 89.246), gmacs=11.308, mib=507.545)
    DEFAULT = IMAGENET1K_V1


class VGG13_BN_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg13_bn-abd245e5", params=133_053_736, acc=(71.586, 90.374), gmacs=11.308, mib=507.59)
    DEFAULT = IMAGENET1K_V1


class VGG16_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg16-397923af", params=138_357_544, acc=(71.592, 90.382), gmacs=15.47, mib=527.796)
    IMAGENET1K_FEATURES = _row(
        "vgg16_features-amdegroot-88682ab5",
        params=138_357_544,
        acc=(float("nan"), float("nan")),
        gmacs=15.47,
        mib=527.802,
        classes=False,
        mean=(0.48235, 0.45882, 0.40784),
        std=(1 / 255, 1 / 255, 1 / 255),
        recipe="https://github.com/amdegroot/ssd.pytorch#training-ssd",
        docs="Only the features module has valid values: these weights extract features and cannot classify. They were "
        "trained with the paper's standardisation of the input.",
    )
    DEFAULT = IMAGENET1K_V1


class VGG16_BN_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg16_bn-6c64b313", params=138_365_992, acc=(73.360, 91.516), gmacs=15.47, mib=527.866)
    DEFAULT = IMAGENET1K_V1


class VGG19_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg19-dcbb9e9d", params=143_667_240, acc=(72.376, 90.876), gmacs=19.632, mib=548.051)
    DEFAULT = IMAGENET1K_V1


class VGG19_BN_Weights(WeightsEnum):
    IMAGENET1K_V1 = _row("vgg19_bn-c79401a0", params=143_678_248, acc=(74.218, 91.842), gmacs=19.632, mib=548.143)
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
