"""MobileNetV2: the inverted residual (Sandler et al. 2018, https://arxiv.org/abs/1801.04381).

A ResNet bottleneck is wide-narrow-wide. Here it is narrow-wide-narrow: the shortcut joins the narrow ends, the costly
3×3 in the wide middle is depthwise (one filter a channel), and the last 1×1 has no activation, which in few channels
would destroy information. It needs few operations, but a depthwise convolution is bound by memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.errors import UsageError

from .build import build
from .convnet import ConvNet, Run
from .layers import Conv2dNormActivation, Layer, make_divisible
from .published_weights import BLOG, ISSUES, REFERENCES, REPRODUCED, WeightsEnum, entry
from .registry import register_model

__all__ = [
    "MobileNetV2",
    "MobileNet_V2_Weights",
    "mobilenet_v2",
]

# Table 2: expansion t, channels c, repeats n, stride s of the first.
_SETTING = (
    (1, 16, 1, 1),  # 112 × 112
    (6, 24, 2, 2),  # 56 × 56
    (6, 32, 3, 2),  # 28 × 28
    (6, 64, 4, 2),  # 14 × 14
    (6, 96, 3, 1),
    (6, 160, 3, 2),  # 7 × 7
    (6, 320, 1, 1),
)
_LAST_CHANNELS = 1280  # of the 1×1 convolution behind these rows


class InvertedResidual(nn.Module):
    """1×1 widens by `expand_ratio`, depthwise 3×3, linear 1×1 (Table 1).

    (N, inp, H, W) → (N, oup, H/stride, W/stride)
    """

    def __init__(self, inp: int, oup: int, stride: int, expand_ratio: float, norm_layer: Layer | None = None) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise UsageError(f"stride is {stride}; it must be 1 or 2.")
        norm_layer = norm_layer or nn.BatchNorm2d
        conv = partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=nn.ReLU6)
        width = round(inp * expand_ratio)
        self.stride = stride
        self.out_channels = oup
        self.use_res_connect = stride == 1 and inp == oup
        layers: list[nn.Module] = [conv(inp, width, kernel_size=1)] if expand_ratio != 1 else []
        layers += [
            conv(width, width, stride=stride, groups=width),
            nn.Conv2d(width, oup, 1, bias=False),
            norm_layer(oup),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.use_res_connect else out


class MobileNetV2(ConvNet):
    """Table 2. `width_mult` scales all channels, rounded to a multiple of `round_nearest`; the last layer has at least
    1280. `inverted_residual_setting` has rows t, c, n, s; `block` takes what InvertedResidual does.
    """

    stem_path = "features.0.0"

    def __init__(
        self,
        num_classes: int = 1000,
        width_mult: float = 1.0,
        inverted_residual_setting: Sequence[Sequence[int]] | None = None,
        round_nearest: int = 8,
        block: Layer | None = None,
        norm_layer: Layer | None = None,
        dropout: float = 0.2,
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        setting = _SETTING if inverted_residual_setting is None else inverted_residual_setting
        if not setting or any(len(row) != 4 for row in setting):
            raise UsageError(
                f"inverted_residual_setting is {setting!r}; give at least one row of four numbers t, c, n, s."
            )
        block = block or InvertedResidual
        norm_layer = norm_layer or nn.BatchNorm2d
        conv = partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=nn.ReLU6)
        self.last_channel = make_divisible(_LAST_CHANNELS * max(1.0, width_mult), round_nearest)

        self.repeats = [n for _, _, n, _ in setting]
        channels = make_divisible(32 * width_mult, round_nearest)
        layers: list[nn.Module] = [conv(in_channels, channels, stride=2)]
        for t, c, n, s in setting:
            width = make_divisible(c * width_mult, round_nearest)
            for i in range(n):
                layers.append(block(channels, width, s if i == 0 else 1, expand_ratio=t, norm_layer=norm_layer))
                channels = width
        layers.append(conv(channels, self.last_channel, kernel_size=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(p=dropout), nn.Linear(self.last_channel, num_classes))
        self._initialise()

    def forward_maps(self, x: Tensor, run: Run) -> Iterator[tuple[str, Tensor]]:
        """Shapes are for 224 × 224 pixels; those of the stages are beside the rows of Table 2."""
        layers = iter(self.features)
        yield "stem", (x := run(x, next(layers)))  # 32 × 112 × 112
        for number, repeats in enumerate(self.repeats, start=1):
            yield f"stage{number}", (x := run(x, *itertools.islice(layers, repeats)))  # 16 × 112 × 112 … 320 × 7 × 7
        yield "head", (x := run(x, *layers))  # 1280 × 7 × 7

    def forward_body(self, x: Tensor) -> Tensor:
        body: Tensor = self.features(x)  # 1280 × 7 × 7
        return body

    def pool(self, features: Tensor) -> Tensor:
        return torch.flatten(nn.functional.adaptive_avg_pool2d(features, (1, 1)), 1)


class MobileNet_V2_Weights(WeightsEnum):
    IMAGENET1K_V1 = entry(
        "mobilenet_v2-b0353104",
        params=3_504_872,
        acc=(71.878, 90.286),
        gmacs=0.301,
        mib=13.555,
        recipe=f"{REFERENCES}#mobilenetv2",
        docs=REPRODUCED,
    )
    IMAGENET1K_V2 = entry(
        "mobilenet_v2-7ebf99e0",
        params=3_504_872,
        acc=(72.154, 90.822),
        gmacs=0.301,
        mib=13.598,
        resize=232,
        recipe=f"{ISSUES}/3995#new-recipe-with-reg-tuning",
        docs="These weights improve upon the results of the original paper by using a modified version of "
        f"TorchVision's new training recipe ({BLOG}).",
    )
    DEFAULT = IMAGENET1K_V2


@register_model(MobileNet_V2_Weights)
def mobilenet_v2(*, weights: MobileNet_V2_Weights | None = None, progress: bool = True, **kwargs: Any) -> MobileNetV2:
    """MobileNetV2: 3.5 M parameters, 0.3 GMACs."""
    return build(MobileNetV2, MobileNet_V2_Weights, weights, progress, **kwargs)
