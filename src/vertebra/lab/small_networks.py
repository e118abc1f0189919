"""Networks for images of 8 to 64 pixels, built from the families' own blocks behind a 3×3 stem of stride 1.

The families divide the resolution by 32, which leaves nothing of such images; these divide it by 4. All are `ConvNet`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from vertebra.models import ConvNet, DenseNet
from vertebra.models.convnet import Run
from vertebra.models.layers import Conv2dNormActivation, Layer, SqueezeExcitation
from vertebra.models.mbconv import BlockConfig, MBConv
from vertebra.models.vgg import VGG, make_layers

from .small_resnet import CLASSES
from .small_resnet import SmallResNet as SmallResNet

N = TypeVar("N", bound=nn.Module)


def seeded(build: Callable[[], N], seed: int) -> N:
    """Build a network whose random weights depend on the seed alone; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


class SmallMBConvNet(ConvNet):
    """Inverted residuals in CIFAR form: `repeats` blocks at each of three resolutions, of which the first keeps it.

    Without squeeze-excitation and with ReLU6 these are MobileNetV2's blocks (Sandler et al. 2018), with both as in
    EfficientNet. Random weights are MobileNetV2's.

    Args:
        width: channels of the bottlenecks of the first stage, doubled in each further one.
        expand_ratio: the paper's t.
        repeats: blocks a stage.
        bottleneck: "linear", or "relu6" for an activation behind each block's last 1×1.
        squeeze_excitation: whether blocks have it.
        activation_layer: nn.ReLU6, nn.SiLU, …
        spatial: the 3×3 convolution, "depthwise" or "dense".
    """

    stem_path = "features.0.0"
    hidden_options = ("bottleneck",)

    def __init__(
        self,
        width: int = 8,
        expand_ratio: float = 6,
        repeats: int = 2,
        *,
        bottleneck: Literal["linear", "relu6"] = "linear",
        squeeze_excitation: bool = False,
        activation_layer: Layer = nn.ReLU6,
        spatial: Literal["depthwise", "dense"] = "depthwise",
        num_classes: int = CLASSES,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.repeats, self.bottleneck = repeats, bottleneck
        make = partial(
            MBConv,
            stochastic_depth_prob=0.0,
            norm_layer=nn.BatchNorm2d,
            se_layer=SqueezeExcitation if squeeze_excitation else None,
            activation_layer=activation_layer,
            conv_layer=nn.Conv2d if spatial == "depthwise" else _dense_conv2d,
        )
        stem = Conv2dNormActivation(
            in_channels, width, norm_layer=nn.BatchNorm2d, activation_layer=activation_layer
        )  # fmt: skip
        layers: list[nn.Module] = [stem]
        channels = width
        for number, stride in enumerate((1, 2, 2)):
            planes = width * 2**number
            for index in range(repeats):
                block = make(BlockConfig(expand_ratio, 3, 1 if index else stride, channels, planes, 1))
                if bottleneck == "relu6":
                    block.block.append(nn.ReLU6(inplace=True))
                layers.append(block)
                channels = planes
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        self._initialise()

    def forward_maps(self, x: Tensor, run: Run) -> Iterator[tuple[str, Tensor]]:
        """Shapes are for 8 × 8 pixels and a width of 8."""
        layers = list(self.features)
        yield "stem", (x := run(x, layers[0]))  # 8 × 8 × 8
        for number in range(3):
            first = 1 + number * self.repeats
            # 8 × 8 × 8, 16 × 4 × 4, 32 × 2 × 2
            yield f"stage{number + 1}", (x := run(x, *layers[first : first + self.repeats]))


def _dense_conv2d(*arguments: Any, groups: int, **options: Any) -> nn.Conv2d:
    """`nn.Conv2d` over all channels, where a depthwise one is asked for."""
    return nn.Conv2d(*arguments, **options)


def small_densenet(
    blocks: Sequence[int] = (4, 4, 4),
    growth_rate: int = 8,
    *,
    bn_size: int = 4,
    num_classes: int = CLASSES,
    in_channels: int = 3,
) -> DenseNet:
    """DenseNet with a 3×3 stem of stride 1 and 2 · growth_rate channels behind it; the blocks are halvings apart."""
    network = DenseNet(
        growth_rate, blocks, 2 * growth_rate, bn_size, num_classes=num_classes, in_channels=in_channels
    )  # fmt: skip
    network.reset_resolution()
    network.min_size = 2 ** (len(blocks) - 1)
    return network


class SmallVGG(VGG):
    """A trunk of 3×3 convolutions with batch norm, then global average pooling or VGG's fully connected layers.

    Args:
        cfg: as the columns of VGG's Table 1: channels of a convolution, or "M" for a halving of the resolution.
        hidden_size: of the two hidden fully connected layers; None: global average pooling and one linear layer.
        pooled: height and width of the map before the fully connected layers (adaptive average pooling).
        dropout: behind each hidden layer.
    """

    def __init__(
        self,
        cfg: Sequence[str | int] = (16, 16, "M", 32, 32),
        hidden_size: int | None = None,
        pooled: int = 6,
        *,
        dropout: float = 0.5,
        num_classes: int = CLASSES,
        in_channels: int = 3,
    ) -> None:
        ConvNet.__init__(self)  # VGG's own builds a head of 124 M parameters
        self.features = make_layers(list(cfg), batch_norm=True, in_channels=in_channels)
        self.min_size = 2 ** list(cfg).count("M")
        channels = next(width for width in reversed(cfg) if isinstance(width, int))
        self.avgpool = nn.AdaptiveAvgPool2d(1 if hidden_size is None else pooled)
        hidden: list[nn.Module] = []
        if hidden_size is not None:
            channels *= pooled**2
            for _ in range(2):
                hidden += [nn.Linear(channels, hidden_size), nn.ReLU(inplace=True), nn.Dropout(p=dropout)]
                channels = hidden_size
        self.classifier = nn.Sequential(*hidden, nn.Linear(channels, num_classes))
        self._initialise()
