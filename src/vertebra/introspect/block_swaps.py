"""Replaces a kind of layer or block throughout a network: activations, depthwise convolutions, shortcuts, bottlenecks.

Each function changes the network in place and returns it (see `module_surgery`). What a kept layer has learned stays;
new layers are initialised as the network's family does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vertebra.models.mbconv import FusedMBConv, MBConv
from vertebra.models.mobilenetv2 import InvertedResidual
from vertebra.models.resnet import BasicBlock, Bottleneck

from .module_surgery import Stages, build_like, convolution_like, norm_like, replace_modules

ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6, nn.SiLU)


class PlainBasicBlock(BasicBlock):
    """BasicBlock without the addition (the plain network of He et al. 2015, Fig. 3); `downsample` is not used."""

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None, **options: Any
    ) -> None:
        super().__init__(inplanes, planes, stride, None, **options)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) → (N, planes, H/stride, W/stride)."""
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        activated: Tensor = self.relu(self.bn2(self.conv2(out)))
        return activated


class PlainBottleneck(Bottleneck):
    """Bottleneck without the addition; `downsample` is not used."""

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None, **options: Any
    ) -> None:
        super().__init__(inplanes, planes, stride, None, **options)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, W) → (N, 4·planes, H/stride, W/stride)."""
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        activated: Tensor = self.relu(self.bn3(self.conv3(out)))
        return activated


def replace_activations(
    network: nn.Module,
    new: Callable[..., nn.Module],
    old: tuple[type[nn.Module], ...] = ACTIVATIONS,
    stages: Stages = None,
) -> nn.Module:
    """Replace all activation layers of the types `old` by `new(inplace=…)`, those of squeeze-excitation included.

    Calls of F.relu are not layers and stay: all of GoogLeNet's, and DenseNet's last.

    Raises:
        UsageError: there is none.
    """
    what = f"activation layer of type {' or '.join(kind.__name__ for kind in old)}"

    def build(layer: nn.Module) -> nn.Module:
        return new(inplace=bool(getattr(layer, "inplace", False))).train(layer.training)

    return replace_modules(network, what, lambda module: type(module) in old, build, stages)


def replace_depthwise(network: nn.Module, stages: Stages = None) -> nn.Module:
    """Replace each depthwise convolution by a dense one of the same shape, C× its weights and MACs.

    Raises:
        UsageError: there is none.
    """

    def is_depthwise(module: nn.Module) -> bool:
        return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1

    def build(conv: nn.Conv2d) -> nn.Conv2d:
        return build_like(network, conv, lambda: convolution_like(conv, groups=1))

    return replace_modules(network, "depthwise convolution", is_depthwise, build, stages)


def remove_shortcuts(network: nn.Module, stages: Stages = None) -> nn.Module:
    """Take the additions away from residual blocks (BasicBlock, Bottleneck, InvertedResidual, MBConv, FusedMBConv).

    ResNet's convolutional shortcuts go with them; the branches keep their weights. A network without shortcuts from the
    start is ResNet(PlainBasicBlock, …). Without the addition, stochastic depth is never active.

    Raises:
        UsageError: no block has a shortcut.
    """
    plain: dict[type[nn.Module], Any] = {BasicBlock: PlainBasicBlock, Bottleneck: PlainBottleneck}
    inverted = (InvertedResidual, MBConv, FusedMBConv)

    def has_shortcut(module: nn.Module) -> bool:
        return type(module) in plain or (isinstance(module, inverted) and module.use_res_connect)

    def build(block: Any) -> nn.Module:
        if type(block) in plain:
            block.__class__ = plain[type(block)]  # so that layers, settings and hooks stay what they are
            block.downsample = None
        else:
            block.use_res_connect = False
        found: nn.Module = block
        return found

    return replace_modules(network, "residual block", has_shortcut, build, stages)


def replace_bottlenecks(network: nn.Module, stages: Stages = None) -> nn.Module:
    """Replace each Bottleneck by a BasicBlock at its outer width: two 3×3 of 4·planes channels.

    Convolutional shortcuts stay.

    Raises:
        UsageError: there is no Bottleneck, or one is dilated.
    """

    def build(block: Bottleneck) -> BasicBlock:
        width, dilation = block.conv3.out_channels, block.conv2.dilation[0]

        def make() -> BasicBlock:
            norm = norm_like(block.bn1)
            return BasicBlock(block.conv1.in_channels, width, block.stride, None, dilation=dilation, norm_layer=norm)

        new = build_like(network, block, make)
        new.downsample = block.downsample
        return new

    return replace_modules(network, "Bottleneck", lambda module: type(module) is Bottleneck, build, stages)


def move_stride_to_1x1(network: nn.Module, stages: Stages = None) -> nn.Module:
    """Move the stride of each Bottleneck from the 3×3 to the first 1×1, as in the paper (He et al. 2015).

    Weights stay; of an input to such a block, 3 of 4 positions are then read by the shortcut and the branch no more.

    Raises:
        UsageError: no Bottleneck has its stride in the 3×3.
    """

    def build(block: Bottleneck) -> Bottleneck:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
        return block

    def is_strided(module: nn.Module) -> bool:
        return isinstance(module, Bottleneck) and module.conv2.stride != (1, 1)

    return replace_modules(network, "Bottleneck with a stride in its 3×3", is_strided, build, stages)
