"""Layers that several families share: convolution-norm-activation, squeeze-excitation, stochastic depth, rounding."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, fx, nn
from torch.nn import functional as F

from vertebra.errors import UsageError

Layer = Callable[..., nn.Module]


def make_divisible(value: float, divisor: int) -> int:
    """Round a number of channels to a multiple of `divisor`, never below 90 % of `value`.

    So does MobileNetV2's reference code,
    https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet/mobilenet.py
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class Conv2dNormActivation(nn.Sequential):
    """Convolution, normalisation, activation: (N, in_channels, H, W) → (N, out_channels, ⌈H/stride⌉, ⌈W/stride⌉)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        *,
        norm_layer: Layer,
        activation_layer: Layer | None,
        conv_layer: Layer = nn.Conv2d,
    ) -> None:
        padding = (kernel_size - 1) // 2
        layers = [
            conv_layer(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False),
            norm_layer(out_channels),
        ]
        if activation_layer is not None:
            layers.append(activation_layer(inplace=True))
        super().__init__(*layers)
        self.out_channels = out_channels


class SqueezeExcitation(nn.Module):
    """Scale each channel by a weight computed from all of them (Hu et al. 2018, Fig. 1): (N, C, H, W) → the same shape.

    `activation` and `scale_activation` are δ and σ of equation 3.
    """

    def __init__(self, input_channels: int, squeeze_channels: int, activation: Layer) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, input_channels, 1)
        self.activation = activation()
        self.scale_activation = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.activation(self.fc1(self.avgpool(x)))
        scaled: Tensor = self.scale_activation(self.fc2(scale)) * x
        return scaled


@fx.wrap
def stochastic_depth(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop a residual branch with probability `p`, each image's by itself, and rescale the others: (N, …) → the same.

    Huang et al. 2016, https://arxiv.org/abs/1603.09382.

    Raises:
        UsageError: `p` is outside 0–1.
    """
    if not 0.0 <= p <= 1.0:
        raise UsageError(f"p, the probability to drop a branch, is {p}; it must be between 0 and 1.")
    if not training or p == 0.0:
        return x
    survival = 1.0 - p
    noise = x.new_empty([x.shape[0]] + [1] * (x.ndim - 1)).bernoulli_(survival)
    if survival > 0.0:
        noise.div_(survival)
    return x * noise


class StochasticDepth(nn.Module):
    """`stochastic_depth` as a module, active in training only."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return stochastic_depth(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


@fx.wrap
def pad_same(x: Tensor, kernel_size: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Pad as TensorFlow's "same": the output has ⌈size / stride⌉ pixels; an odd pixel goes right and below."""
    padding = []
    for size, kernel, step in zip(x.shape[:1:-1], kernel_size[::-1], stride[::-1], strict=True):
        total = max((-(-size // step) - 1) * step + kernel - size, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)


class Conv2dSame(nn.Conv2d):
    """`nn.Conv2d` with TensorFlow's "same" padding, which at stride 2 is not symmetric; `padding` is not used."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1):  # symmetric: the convolution pads by itself
            return super().forward(x)
        x = pad_same(x, self.kernel_size, self.stride)  # type: ignore[arg-type]
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
