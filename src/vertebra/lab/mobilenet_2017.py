"""The first MobileNet (Howard et al. 2017, https://arxiv.org/abs/1704.04861), which is in no family here."""

from __future__ import annotations

from functools import partial

from torch import nn

from vertebra.models.layers import Conv2dNormActivation

# Table 1: output channels and stride of each pair of a 3×3 and a 1×1.
_LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


def mobilenet_2017(separable: bool = True) -> nn.Module:
    """Table 1; without `separable` one dense 3×3 stands for each pair, as in Table 4. For 224 × 224 pixels."""
    conv = partial(Conv2dNormActivation, norm_layer=nn.BatchNorm2d, activation_layer=nn.ReLU)
    layers: list[nn.Module] = [conv(3, 32, stride=2)]
    channels = 32
    for width, stride in _LAYERS:
        if separable:
            layers += [conv(channels, channels, stride=stride, groups=channels), conv(channels, width, kernel_size=1)]
        else:
            layers += [conv(channels, width, stride=stride)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))
