"""EfficientNet: scale depth, width and resolution together (Tan & Le 2019, https://arxiv.org/abs/1905.11946), and V2
(Tan & Le 2021, https://arxiv.org/abs/2104.00298), found by a search for training speed.

MBConv is MobileNetV2's inverted residual with squeeze-excitation. FusedMBConv, in the early stages of V2, does the 1×1
and the depthwise 3×3 as one dense 3×3: more FLOPs, but fewer trips to memory, and faster where channels are few. Lite
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) leaves out what phones and int8 do
badly: no squeeze-excitation, ReLU6 instead of SiLU, stem and head not scaled.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from vertebra.errors import UsageError

from .build import build
from .convnet import ConvNet, Run
from .efficientnet_weights import (
    EfficientNet_B0_Weights,
    EfficientNet_B1_Weights,
    EfficientNet_B2_Weights,
    EfficientNet_B3_Weights,
    EfficientNet_B4_Weights,
    EfficientNet_B5_Weights,
    EfficientNet_B6_Weights,
    EfficientNet_B7_Weights,
    EfficientNet_Lite0_Weights,
    EfficientNet_Lite1_Weights,
    EfficientNet_Lite2_Weights,
    EfficientNet_V2_L_Weights,
    EfficientNet_V2_M_Weights,
    EfficientNet_V2_S_Weights,
    lite_names,
)
from .layers import Conv2dNormActivation, Conv2dSame, Layer
from .mbconv import BlockConfig
from .mbconv import FusedMBConv as FusedMBConv
from .mbconv import FusedMBConvConfig as FusedMBConvConfig
from .mbconv import MBConv as MBConv
from .mbconv import MBConvConfig as MBConvConfig
from .registry import register_model

__all__ = [
    "EfficientNet",
    "EfficientNet_B0_Weights",
    "EfficientNet_B1_Weights",
    "EfficientNet_B2_Weights",
    "EfficientNet_B3_Weights",
    "EfficientNet_B4_Weights",
    "EfficientNet_B5_Weights",
    "EfficientNet_B6_Weights",
    "EfficientNet_B7_Weights",
    "EfficientNet_V2_S_Weights",
    "EfficientNet_V2_M_Weights",
    "EfficientNet_V2_L_Weights",
    "EfficientNet_Lite0_Weights",
    "EfficientNet_Lite1_Weights",
    "EfficientNet_Lite2_Weights",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_s",
    "efficientnet_v2_m",
    "efficientnet_v2_l",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
]


# Table 1, the rows of B0: expansion, kernel, stride, channels in and out, layers.
_B0 = (
    (1, 3, 1, 32, 16, 1),  # 112 × 112
    (6, 3, 2, 16, 24, 2),  # 56 × 56
    (6, 5, 2, 24, 40, 2),  # 28 × 28
    (6, 3, 2, 40, 80, 3),  # 14 × 14
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),  # 7 × 7
    (6, 3, 1, 192, 320, 1),
)
# Width and depth as multiples of B0's, and the dropout, from the reference code; Lite0 to 2 have those of B0 to B2.
_SCALING = {
    "b0": (1.0, 1.0, 0.2),
    "b1": (1.0, 1.1, 0.2),
    "b2": (1.1, 1.2, 0.3),
    "b3": (1.2, 1.4, 0.3),
    "b4": (1.4, 1.8, 0.4),
    "b5": (1.6, 2.2, 0.4),
    "b6": (1.8, 2.6, 0.5),
    "b7": (2.0, 3.1, 0.5),
}
# Table 4 of EfficientNetV2 has S; M and L are scaled up from it (section 3.3). The first three rows are fused.
_V2_S = (
    (1, 3, 1, 24, 24, 2),  # 192 × 192, for an input of 384 × 384
    (4, 3, 2, 24, 48, 4),  # 96 × 96
    (4, 3, 2, 48, 64, 4),  # 48 × 48
    (4, 3, 2, 64, 128, 6),  # 24 × 24
    (6, 3, 1, 128, 160, 9),
    (6, 3, 2, 160, 256, 15),  # 12 × 12
)
_V2_M = (
    (1, 3, 1, 24, 24, 3),  # 240 × 240, for an input of 480 × 480
    (4, 3, 2, 24, 48, 5),  # 120 × 120
    (4, 3, 2, 48, 80, 5),  # 60 × 60
    (4, 3, 2, 80, 160, 7),  # 30 × 30
    (6, 3, 1, 160, 176, 14),
    (6, 3, 2, 176, 304, 18),  # 15 × 15
    (6, 3, 1, 304, 512, 5),
)
_V2_L = (
    (1, 3, 1, 32, 32, 4),  # 240 × 240, for an input of 480 × 480
    (4, 3, 2, 32, 64, 7),  # 120 × 120
    (4, 3, 2, 64, 96, 7),  # 60 × 60
    (4, 3, 2, 96, 192, 10),  # 30 × 30
    (6, 3, 1, 192, 224, 19),
    (6, 3, 2, 224, 384, 25),  # 15 × 15
    (6, 3, 1, 384, 640, 7),
)
_FUSED_ROWS = 3
# B5 to B7 and Lite were ported from TensorFlow with its settings of batch norm.
_TF_NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class EfficientNet(ConvNet):
    """A stem, one stage a row of `inverted_residual_setting`, a 1×1 head of `last_channel` (None: 4 × the last row's).

    The probability to drop a block grows from 0 at the first to `stochastic_depth_prob` at the last. `activation_layer`
    and `conv_layer` are those of stem and head (Lite has ReLU6 and TensorFlow's padding).
    """

    stem_path = "features.0.0"

    def __init__(
        self,
        inverted_residual_setting: Sequence[MBConvConfig | FusedMBConvConfig],
        dropout: float,
        stochastic_depth_prob: float = 0.2,
        num_classes: int = 1000,
        norm_layer: Layer | None = None,
        last_channel: int | None = None,
        *,
        in_channels: int = 3,
        activation_layer: Layer = nn.SiLU,
        conv_layer: Layer = nn.Conv2d,
        min_size: int = 1,
    ) -> None:
        super().__init__()
        setting: Any = inverted_residual_setting
        if not isinstance(setting, Sequence) or not setting or not all(isinstance(row, BlockConfig) for row in setting):
            raise UsageError(
                f"inverted_residual_setting is {setting!r}; give a list of MBConvConfig and FusedMBConvConfig."
            )
        norm_layer = norm_layer or nn.BatchNorm2d
        conv = partial(Conv2dNormActivation, norm_layer=norm_layer, activation_layer=activation_layer)
        self.min_size = min_size

        self.rows = len(setting)
        channels = setting[0].input_channels
        layers: list[nn.Module] = [conv(in_channels, channels, 3, stride=2, conv_layer=conv_layer)]
        total_blocks = sum(row.num_layers for row in setting)
        block_id = 0
        for row in setting:
            blocks: list[nn.Module] = []
            for _ in range(row.num_layers):
                drop = stochastic_depth_prob * block_id / total_blocks
                blocks.append(row.block(row, drop, norm_layer))
                block_id += 1
                row = copy.copy(row)
                row.input_channels, row.stride = row.out_channels, 1
            layers.append(nn.Sequential(*blocks))
            channels = row.out_channels
        width = 4 * channels if last_channel is None else last_channel
        layers.append(conv(channels, width, kernel_size=1))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(p=dropout, inplace=True), nn.Linear(width, num_classes))
        self._initialise()

    def forward_maps(self, x: Tensor, run: Run) -> Iterator[tuple[str, Tensor]]:
        """Shapes are B0's for 224 × 224 pixels; those of the stages are beside the rows of Table 1."""
        yield "stem", (x := run(x, self.features[0]))  # 32 × 112 × 112
        for number in range(1, self.rows + 1):
            yield f"stage{number}", (x := run(x, self.features[number]))  # 16 × 112 × 112 … 320 × 7 × 7
        yield "head", (x := run(x, *self.features[self.rows + 1 :]))  # 1280 × 7 × 7

    def forward_body(self, x: Tensor) -> Tensor:
        body: Tensor = self.features(x)  # 1280 × 7 × 7
        return body

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            bound = 1.0 / math.sqrt(module.out_features)
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @classmethod
    def convert_state_dict(cls, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
        """The Lite packages' names, with blocks numbered through (`_blocks.3._bn1.weight`), → ours."""
        return lite_names(state_dict) if "_conv_stem.weight" in state_dict else state_dict


_lite_block = partial(MBConv, se_layer=None, activation_layer=nn.ReLU6, conv_layer=Conv2dSame)


def scaled_b0(width: float, depth: float, dropout: float = 0.2, **options: Any) -> EfficientNet:
    """B0 with its channels multiplied by `width` and its blocks by `depth`; no multiplier of the resolution is here."""
    setting = [MBConvConfig(*row, width_mult=width, depth_mult=depth) for row in _B0]
    return EfficientNet(setting, dropout, **options)


def _b(name: str, **options: Any) -> EfficientNet:
    """Compound scaling of B0."""
    width, depth, dropout = _SCALING[name]
    return scaled_b0(width, depth, **{"dropout": dropout} | options)


def _lite(name: str, **options: Any) -> EfficientNet:
    """The same scaling, but stem, head and the depth of the first and last stage stay as they are in B0."""
    width, depth, dropout = _SCALING[name]
    last = len(_B0) - 1
    setting = [MBConvConfig(*row, width, 1.0 if i in (0, last) else depth, _lite_block) for i, row in enumerate(_B0)]
    setting[0].input_channels = 32
    network = partial(EfficientNet, norm_layer=_TF_NORM, last_channel=1280)
    return network(setting, activation_layer=nn.ReLU6, conv_layer=Conv2dSame, **{"dropout": dropout} | options)


def _v2(rows: Sequence[tuple[int, int, int, int, int, int]], dropout: float, **options: Any) -> EfficientNet:
    setting: list[MBConvConfig | FusedMBConvConfig] = [FusedMBConvConfig(*row) for row in rows[:_FUSED_ROWS]]
    setting += [MBConvConfig(*row) for row in rows[_FUSED_ROWS:]]
    # Below 33 pixels the last map is one pixel, of which batch norm cannot take statistics in training.
    network = partial(EfficientNet, norm_layer=partial(nn.BatchNorm2d, eps=1e-3), last_channel=1280, min_size=33)
    return network(setting, dropout, **options)


@register_model(EfficientNet_B0_Weights)
def efficientnet_b0(
    *, weights: EfficientNet_B0_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-B0: 5.3 M parameters, 0.4 GMACs at 224 × 224."""
    return build(partial(_b, "b0"), EfficientNet_B0_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_B1_Weights)
def efficientnet_b1(
    *, weights: EfficientNet_B1_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-B1: 7.8 M parameters, 0.7 GMACs at 240 × 240."""
    return build(partial(_b, "b1"), EfficientNet_B1_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_B2_Weights)
def efficientnet_b2(
    *, weights: EfficientNet_B2_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-B2: 9.1 M parameters, 1.1 GMACs at 288 × 288."""
    return build(partial(_b, "b2"), EfficientNet_B2_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_B3_Weights)
def efficientnet_b3(
    *, weights: EfficientNet_B3_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-B3: 12.2 M parameters, 1.8 GMACs at 300 × 300."""
    return build(partial(_b, "b3"), EfficientNet_B3_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_B4_Weights)
def efficientnet_b4(
    *, weights: EfficientNet_B4_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-B4: 19.3 M parameters, 4.4 GMACs at 380 × 380."""
    return build(partial(_b, "b4"), EfficientNet_B4_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_B5_Weights)
def efficientnet_b5(
    *, weights: EfficientNet_B5_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-B5: 30.4 M parameters, 10.3 GMACs at 456 × 456."""
    return build(partial(_b, "b5", norm_layer=_TF_NORM), EfficientNet_B5_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_B6_Weights)
def efficientnet_b6(
    *, weights: EfficientNet_B6_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-B6: 43.0 M parameters, 19.1 GMACs at 528 × 528."""
    return build(partial(_b, "b6", norm_layer=_TF_NORM), EfficientNet_B6_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_B7_Weights)
def efficientnet_b7(
    *, weights: EfficientNet_B7_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-B7: 66.3 M parameters, 37.7 GMACs at 600 × 600."""
    return build(partial(_b, "b7", norm_layer=_TF_NORM), EfficientNet_B7_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_V2_S_Weights)
def efficientnet_v2_s(
    *, weights: EfficientNet_V2_S_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNetV2-S: 21.5 M parameters, 8.4 GMACs at 384 × 384."""
    return build(partial(_v2, _V2_S, dropout=0.2), EfficientNet_V2_S_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_V2_M_Weights)
def efficientnet_v2_m(
    *, weights: EfficientNet_V2_M_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNetV2-M: 54.1 M parameters, 24.6 GMACs at 480 × 480."""
    return build(partial(_v2, _V2_M, dropout=0.3), EfficientNet_V2_M_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_V2_L_Weights)
def efficientnet_v2_l(
    *, weights: EfficientNet_V2_L_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNetV2-L: 118.5 M parameters, 56.1 GMACs at 480 × 480."""
    return build(partial(_v2, _V2_L, dropout=0.4), EfficientNet_V2_L_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_Lite0_Weights)
def efficientnet_lite0(
    *, weights: EfficientNet_Lite0_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-Lite0: 4.7 M parameters, 0.4 GMACs at 224 × 224; the weights are a Python package."""
    return build(partial(_lite, "b0"), EfficientNet_Lite0_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_Lite1_Weights)
def efficientnet_lite1(
    *, weights: EfficientNet_Lite1_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-Lite1: 5.4 M parameters, 0.6 GMACs at 240 × 240; the weights are a Python package."""
    return build(partial(_lite, "b1"), EfficientNet_Lite1_Weights, weights, progress, **kwargs)


@register_model(EfficientNet_Lite2_Weights)
def efficientnet_lite2(
    *, weights: EfficientNet_Lite2_Weights | None = None, progress: bool = True, **kwargs: Any
) -> EfficientNet:
    """EfficientNet-Lite2: 6.1 M parameters, 0.9 GMACs at 260 × 260; the weights are a Python package."""
    return build(partial(_lite, "b2"), EfficientNet_Lite2_Weights, weights, progress, **kwargs)
