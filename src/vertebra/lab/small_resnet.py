"""Residual and plain networks for images of 8 to 64 pixels, as He et al. 2015 build them for CIFAR."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from vertebra.errors import UsageError
from vertebra.models import ConvNet, ResNet
from vertebra.models.convnet import Run
from vertebra.models.layers import Layer
from vertebra.models.resnet import BasicBlock, conv3x3

CLASSES = 10  # of the digits


class SubsampledShortcut(nn.Module):
    """Shortcut without parameters (He et al. 2015, option A): subsample, and pad the new channels with zeros.

    (N, inplanes, H, W) → (N, planes, H/stride, W/stride)
    """

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.stride, self.out_channels = stride, planes
        self.padding = (0, 0, 0, 0, 0, planes - inplanes)

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)


class PlainBlock(BasicBlock):
    """`BasicBlock` without the shortcut, as in the plain networks of He et al. 2015, 4.2; the tensors are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """The branch alone."""
        out = self.relu(self.bn1(self.conv1(x)))
        activated: Tensor = self.relu(self.bn2(self.conv2(out)))
        return activated


class SmallResNet(ResNet):
    """He et al. 2015, 4.2, for CIFAR: depth 6n + 2, n blocks at each of three resolutions, parameter-free shortcuts.

    Args:
        depth: layers with weights: 8, 14, 20, … 56, 110.
        width: channels of the first stage, doubled in each further one; the paper has 16.
        residual: False for the plain network, whose tensors and random weights are the same.
        batch_norm: False leaves the norms out; the convolutions have no bias either way.
        zero_init_residual: let each block start as the identity (Goyal et al. 2017, 5.1).
    """

    hidden_options = ("residual",)

    def __init__(
        self,
        depth: int = 20,
        width: int = 16,
        *,
        residual: bool = True,
        batch_norm: bool = True,
        zero_init_residual: bool = False,
        num_classes: int = CLASSES,
        in_channels: int = 3,
    ) -> None:
        ConvNet.__init__(self)  # ResNet's own builds the 7×7 stem and four stages
        if depth < 8 or (depth - 2) % 6:
            raise UsageError(f"depth is {depth}; it must be 6n + 2: 8, 14, 20, 26, 32, …")
        self.residual = residual
        norm: Layer = nn.BatchNorm2d if batch_norm else nn.Identity
        block = BasicBlock if residual else PlainBlock
        self.conv1 = conv3x3(in_channels, width)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        inplanes = width
        for number, stride in enumerate((1, 2, 2), start=1):
            planes = width * 2 ** (number - 1)
            shortcut = SubsampledShortcut(inplanes, planes, stride) if residual and stride > 1 else None
            blocks = [block(inplanes, planes, stride, shortcut, norm_layer=norm)]
            blocks += [block(planes, planes, norm_layer=norm) for _ in range(1, (depth - 2) // 6)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            inplanes = planes
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inplanes, num_classes)
        self._initialise()
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock) and isinstance(norm2 := module.bn2, nn.BatchNorm2d):
                    nn.init.zeros_(norm2.weight)

    def forward_maps(self, x: Tensor, run: Run) -> Iterator[tuple[str, Tensor]]:
        """Shapes are for 8 × 8 pixels and a width of 8."""
        yield "stem", (x := run(x, self.conv1, self.bn1, self.relu))  # 8 × 8 × 8
        yield "layer1", (x := run(x, self.layer1))  # 8 × 8 × 8
        yield "layer2", (x := run(x, self.layer2))  # 16 × 4 × 4
        yield "layer3", (x := run(x, self.layer3))  # 32 × 2 × 2

    def first_halvings(self) -> Sequence[nn.Module]:
        """None: the stem is for small images already."""
        return []
