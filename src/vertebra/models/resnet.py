"""ResNet: add the input of a block to its output (He et al. 2015, https://arxiv.org/abs/1512.03385), and two children:
ResNeXt (Xie et al. 2016, https://arxiv.org/abs/1611.05431) splits the 3×3 convolution into groups, Wide ResNet
(Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146) makes it wider.

The addition gives the gradient a path without weights, so that a hundred layers still train. A bottleneck does its 3×3
convolution on a quarter of the channels, between two cheap 1×1 convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from vertebra.errors import UsageError

from .build import build
from .convnet import ConvNet, Run
from .layers import Layer
from .published_weights import BLOG, ISSUES, REFERENCES, REPRODUCED, WeightsEnum, entry
from .registry import register_model

__all__ = [
    "ResNet",
    "ResNet18_Weights",
    "ResNet34_Weights",
    "ResNet50_Weights",
    "ResNet101_Weights",
    "ResNet152_Weights",
    "ResNeXt50_32X4D_Weights",
    "ResNeXt101_32X8D_Weights",
    "ResNeXt101_64X4D_Weights",
    "Wide_ResNet50_2_Weights",
    "Wide_ResNet101_2_Weights",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

# Table 1: the number of blocks in conv2_x to conv5_x, by depth.
_DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def conv3x3(in_planes: int, out_planes: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """3×3 convolution that keeps the resolution at stride 1."""
    return nn.Conv2d(in_planes, out_planes, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False)


def conv1x1(in_planes: int, out_planes: int, stride: int = 1) -> nn.Conv2d:
    """1×1 convolution."""
    return nn.Conv2d(in_planes, out_planes, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (Fig. 5 left): (N, inplanes, H, W) → (N, planes, H/stride, W/stride)."""

    expansion: int = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Layer | None = None,
    ) -> None:
        super().__init__()
        if groups != 1 or base_width != 64 or dilation != 1:
            raise UsageError(
                f"BasicBlock has neither groups, nor another width, nor dilation: got groups={groups}, "
                f"base_width={base_width}, dilation={dilation}. Bottleneck has (ResNet-50 and deeper)."
            )
        norm_layer = norm_layer or nn.BatchNorm2d
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        activated: Tensor = self.relu(out)
        return activated


class Bottleneck(nn.Module):
    """1×1 reduces, 3×3, 1×1 restores (Fig. 5 right): (N, inplanes, H, W) → (N, 4·planes, H/stride, W/stride)."""

    expansion: int = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Layer | None = None,
    ) -> None:
        super().__init__()
        norm_layer = norm_layer or nn.BatchNorm2d
        width = int(planes * (base_width / 64)) * groups
        self.conv1 = conv1x1(inplanes, width)
        self.bn1 = norm_layer(width)
        # The paper has the stride on the first 1×1. On the 3×3 no pixel is skipped, which is worth about 0.5 % top-1
        # (known as ResNet v1.5, https://catalog.ngc.nvidia.com/orgs/nvidia/resources/resnet_50_v1_5_for_pytorch).
        self.conv2 = conv3x3(width, width, stride, groups, dilation)
        self.bn2 = norm_layer(width)
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.bn3 = norm_layer(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        activated: Tensor = self.relu(out)
        return activated


class ResNet(ConvNet):
    """Table 1: a 7×7 stem, four stages of blocks, global average pooling, one linear layer.

    `groups` × `width_per_group` is ResNeXt's cardinality × width, and `width_per_group=128` the wide network;
    `replace_stride_with_dilation` keeps the resolution of the last three stages for dense prediction;
    `zero_init_residual` lets each block start as the identity (Goyal et al. 2017, worth 0.2 to 0.3 % top-1).
    """

    widths = (64, 128, 256, 512)  # Table 1, conv2_x to conv5_x: channels of the 3×3 convolutions
    head_name = "fc"
    stem_path = "conv1"
    hidden_options = ("replace_stride_with_dilation",)

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: Layer | None = None,
        *,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        dilate = replace_stride_with_dilation or (False, False, False)
        self.replace_stride_with_dilation = list(dilate)
        if len(dilate) != 3:
            raise UsageError(f"replace_stride_with_dilation is {dilate}; give three booleans, for layers 2, 3 and 4.")
        self.groups = groups
        self.base_width = width_per_group
        self.inplanes = self.widths[0]
        self.dilation = 1
        self._norm_layer = norm_layer or nn.BatchNorm2d

        self.conv1 = nn.Conv2d(in_channels, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = self._norm_layer(self.inplanes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, self.widths[0], layers[0])
        self.layer2 = self._make_layer(block, self.widths[1], layers[1], stride=2, dilate=dilate[0])
        self.layer3 = self._make_layer(block, self.widths[2], layers[2], stride=2, dilate=dilate[1])
        self.layer4 = self._make_layer(block, self.widths[3], layers[3], stride=2, dilate=dilate[2])
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.widths[3] * block.expansion, num_classes)

        self._initialise()
        if zero_init_residual:
            for module in self.modules():
                last = {BasicBlock: "bn2", Bottleneck: "bn3"}.get(type(module))
                weight = None if last is None else module.get_submodule(last).weight
                if isinstance(weight, Tensor):  # a norm without affine parameters has none
                    nn.init.zeros_(weight)

    def _make_layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        first_dilation = self.dilation
        if dilate:
            self.dilation *= stride
            stride = 1
        width = planes * block.expansion
        downsample = None
        if stride != 1 or self.inplanes != width:  # option B of the paper: a projection where the shape changes
            downsample = nn.Sequential(conv1x1(self.inplanes, width, stride), self._norm_layer(width))
        same = partial(block, groups=self.groups, base_width=self.base_width, norm_layer=self._norm_layer)
        layer = [same(self.inplanes, planes, stride, downsample, dilation=first_dilation)]
        layer += [same(width, planes, dilation=self.dilation) for _ in range(1, blocks)]
        self.inplanes = width
        return nn.Sequential(*layer)

    def forward_maps(self, x: Tensor, run: Run) -> Iterator[tuple[str, Tensor]]:
        """Shapes are for 224 × 224 pixels; e is the block's expansion, 1 or 4."""
        yield "stem.relu", (x := run(x, self.conv1, self.bn1, self.relu))  # 64 × 112 × 112
        yield "stem", (x := run(x, self.maxpool))  # 64 × 56 × 56
        yield "layer1", (x := run(x, self.layer1))  # 64·e × 56 × 56
        yield "layer2", (x := run(x, self.layer2))  # 128·e × 28 × 28
        yield "layer3", (x := run(x, self.layer3))  # 256·e × 14 × 14
        yield "layer4", (x := run(x, self.layer4))  # 512·e × 7 × 7

    def first_halvings(self) -> Sequence[nn.Module]:
        return self.conv1, self.maxpool

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif not isinstance(module, nn.Linear):  # that stays as torch makes it
            super()._init_weights(module)


_v1 = partial(entry, recipe=f"{REFERENCES}#resnet", docs=REPRODUCED)
_v1_next = partial(_v1, recipe=f"{REFERENCES}#resnext")
_v1_wide = partial(_v1, recipe="https://github.com/pytorch/vision/pull/912#issue-445437439")
_v2 = partial(
    entry,
    resize=232,
    recipe=f"{ISSUES}/3995#new-recipe",
    docs="These weights improve upon the results of the original paper by using TorchVision's new training recipe "
    f"({BLOG}).",
)
_v2_fixres = partial(_v2, recipe=f"{ISSUES}/3995#new-recipe-with-fixres")


class ResNet18_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1("resnet18-f37072fd", params=11_689_512, acc=(69.758, 89.078), gmacs=1.814, mib=44.661)
    DEFAULT = IMAGENET1K_V1


class ResNet34_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1("resnet34-b627a593", params=21_797_672, acc=(73.314, 91.420), gmacs=3.664, mib=83.275)
    DEFAULT = IMAGENET1K_V1


class ResNet50_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1("resnet50-0676ba61", params=25_557_032, acc=(76.130, 92.862), gmacs=4.089, mib=97.781)
    IMAGENET1K_V2 = _v2(
        "resnet50-11ad3fa6",
        params=25_557_032,
        acc=(80.858, 95.434),
        gmacs=4.089,
        mib=97.79,
        recipe=f"{ISSUES}/3995#issuecomment-1013906621",
    )
    DEFAULT = IMAGENET1K_V2


class ResNet101_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1("resnet101-63fe2227", params=44_549_160, acc=(77.374, 93.546), gmacs=7.801, mib=170.511)
    IMAGENET1K_V2 = _v2("resnet101-cd907fc2", params=44_549_160, acc=(81.886, 95.780), gmacs=7.801, mib=170.53)
    DEFAULT = IMAGENET1K_V2


class ResNet152_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1("resnet152-394f9c45", params=60_192_808, acc=(78.312, 94.046), gmacs=11.514, mib=230.434)
    IMAGENET1K_V2 = _v2("resnet152-f82ba261", params=60_192_808, acc=(82.284, 96.002), gmacs=11.514, mib=230.474)
    DEFAULT = IMAGENET1K_V2


class ResNeXt50_32X4D_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_next(
        "resnext50_32x4d-7cdf4587", params=25_028_904, acc=(77.618, 93.698), gmacs=4.23, mib=95.789
    )
    IMAGENET1K_V2 = _v2("resnext50_32x4d-1a0047aa", params=25_028_904, acc=(81.198, 95.340), gmacs=4.23, mib=95.833)
    DEFAULT = IMAGENET1K_V2


class ResNeXt101_32X8D_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_next(
        "resnext101_32x8d-8ba56ff5", params=88_791_336, acc=(79.312, 94.526), gmacs=16.414, mib=339.586
    )
    IMAGENET1K_V2 = _v2_fixres(
        "resnext101_32x8d-110c445d", params=88_791_336, acc=(82.834, 96.228), gmacs=16.414, mib=339.673
    )
    DEFAULT = IMAGENET1K_V2


class ResNeXt101_64X4D_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v2(
        "resnext101_64x4d-173b62eb",
        params=83_455_272,
        acc=(83.246, 96.454),
        gmacs=15.46,
        mib=319.318,
        recipe="https://github.com/pytorch/vision/pull/5935",
        docs=f"These weights were trained from scratch by using TorchVision's new training recipe ({BLOG}).",
    )
    DEFAULT = IMAGENET1K_V1


class Wide_ResNet50_2_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_wide(
        "wide_resnet50_2-95faca4d", params=68_883_240, acc=(78.468, 94.086), gmacs=11.398, mib=131.82
    )  # float16
    IMAGENET1K_V2 = _v2_fixres(
        "wide_resnet50_2-9ba9bcbe", params=68_883_240, acc=(81.602, 95.758), gmacs=11.398, mib=263.124
    )
    DEFAULT = IMAGENET1K_V2


class Wide_ResNet101_2_Weights(WeightsEnum):
    IMAGENET1K_V1 = _v1_wide(
        "wide_resnet101_2-32ee1156", params=126_886_696, acc=(78.848, 94.284), gmacs=22.753, mib=242.896
    )  # float16
    IMAGENET1K_V2 = _v2(
        "wide_resnet101_2-d733dc28", params=126_886_696, acc=(82.510, 96.020), gmacs=22.753, mib=484.747
    )
    DEFAULT = IMAGENET1K_V2


@register_model(ResNet18_Weights)
def resnet18(*, weights: ResNet18_Weights | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-18: 11.7 M parameters, 1.8 GMACs."""
    return build(partial(ResNet, BasicBlock, _DEPTHS[18]), ResNet18_Weights, weights, progress, **kwargs)


@register_model(ResNet34_Weights)
def resnet34(*, weights: ResNet34_Weights | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-34: 21.8 M parameters, 3.7 GMACs."""
    return build(partial(ResNet, BasicBlock, _DEPTHS[34]), ResNet34_Weights, weights, progress, **kwargs)


@register_model(ResNet50_Weights)
def resnet50(*, weights: ResNet50_Weights | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-50: 25.6 M parameters, 4.1 GMACs."""
    return build(partial(ResNet, Bottleneck, _DEPTHS[50]), ResNet50_Weights, weights, progress, **kwargs)


@register_model(ResNet101_Weights)
def resnet101(*, weights: ResNet101_Weights | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-101: 44.5 M parameters, 7.8 GMACs."""
    return build(partial(ResNet, Bottleneck, _DEPTHS[101]), ResNet101_Weights, weights, progress, **kwargs)


@register_model(ResNet152_Weights)
def resnet152(*, weights: ResNet152_Weights | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNet-152: 60.2 M parameters, 11.5 GMACs."""
    return build(partial(ResNet, Bottleneck, _DEPTHS[152]), ResNet152_Weights, weights, progress, **kwargs)


@register_model(ResNeXt50_32X4D_Weights)
def resnext50_32x4d(*, weights: ResNeXt50_32X4D_Weights | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """ResNeXt-50, 32 groups of width 4: 25.0 M parameters, 4.2 GMACs."""
    network = partial(ResNet, Bottleneck, _DEPTHS[50], groups=32, width_per_group=4)
    return build(network, ResNeXt50_32X4D_Weights, weights, progress, **kwargs)


@register_model(ResNeXt101_32X8D_Weights)
def resnext101_32x8d(
    *, weights: ResNeXt101_32X8D_Weights | None = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """ResNeXt-101, 32 groups of width 8: 88.8 M parameters, 16.4 GMACs."""
    network = partial(ResNet, Bottleneck, _DEPTHS[101], groups=32, width_per_group=8)
    return build(network, ResNeXt101_32X8D_Weights, weights, progress, **kwargs)


@register_model(ResNeXt101_64X4D_Weights)
def resnext101_64x4d(
    *, weights: ResNeXt101_64X4D_Weights | None = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """ResNeXt-101, 64 groups of width 4: 83.5 M parameters, 15.5 GMACs."""
    network = partial(ResNet, Bottleneck, _DEPTHS[101], groups=64, width_per_group=4)
    return build(network, ResNeXt101_64X4D_Weights, weights, progress, **kwargs)


@register_model(Wide_ResNet50_2_Weights)
def wide_resnet50_2(*, weights: Wide_ResNet50_2_Weights | None = None, progress: bool = True, **kwargs: Any) -> ResNet:
    """Wide ResNet-50-2, the 3×3 twice as wide: 68.9 M parameters, 11.4 GMACs."""
    network = partial(ResNet, Bottleneck, _DEPTHS[50], width_per_group=128)
    return build(network, Wide_ResNet50_2_Weights, weights, progress, **kwargs)


@register_model(Wide_ResNet101_2_Weights)
def wide_resnet101_2(
    *, weights: Wide_ResNet101_2_Weights | None = None, progress: bool = True, **kwargs: Any
) -> ResNet:
    """Wide ResNet-101-2: 126.9 M parameters, 22.8 GMACs."""
    network = partial(ResNet, Bottleneck, _DEPTHS[101], width_per_group=128)
    return build(network, Wide_ResNet101_2_Weights, weights, progress, **kwargs)
