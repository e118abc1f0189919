"""Layers that several families share: convolution-norm-activation, squeeze-excitation, stochastic depth, rounding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from vertebra.errors import UsageError

Layer = Callable[..., nn.Module]


def make_divisible(value: float, divisor: int, min_value: int | None = None) -> int:
    """Round a number of channels to a multiple of `divisor`, never below 90 % of `value`.

    So does MobileNetV2's reference code,
    https://github.com/tensorflow/models/blob/master/research/slim/nets/mobilenet/mobilenet.py
    """
    rounded = max(min_value or divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class Conv2dNormActivation(nn.Sequential):
    """Convolution, then normalisation, then activation: (N, in_channels, H, W) → (N, out_channels, H', W').

    `padding=None` keeps the resolution at stride 1. The convolution has a bias only where no normalisation follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str | None = None,
        groups: int = 1,
        norm_layer: Layer | None = nn.BatchNorm2d,
        activation_layer: Layer | None = nn.ReLU,
        dilation: int | tuple[int, int] = 1,
        inplace: bool | None = True,
        bias: bool | None = None,
        conv_layer: Layer = nn.Conv2d,
    ) -> None:
        if padding is None:
            kernel, dilate = _pair(kernel_size), _pair(dilation)
            padding = ((kernel[0] - 1) // 2 * dilate[0], (kernel[1] - 1) // 2 * dilate[1])
        if bias is None:
            bias = norm_layer is None
        layers = [
            conv_layer(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias),
        ]
        if norm_layer is not None:
            layers.append(norm_layer(out_channels))
        if activation_layer is not None:
            layers.append(activation_layer() if inplace is None else activation_layer(inplace=inplace))
        super().__init__(*layers)
        self.out_channels = out_channels


class SqueezeExcitation(nn.Module):
    """Scale each channel by a weight computed from all of them (Hu et al. 2018, Fig. 1): (N, C, H, W) → the same shape.

    `activation` and `scale_activation` are δ and σ of equation 3.
    """

    def __init__(
        self,
        input_channels: int,
        squeeze_channels: int,
        activation: Layer = nn.ReLU,
        scale_activation: Layer = nn.Sigmoid,
    ) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, input_channels, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.activation(self.fc1(self.avgpool(x)))
        scaled: Tensor = self.scale_activation(self.fc2(scale)) * x
        return scaled


@fx.wrap
def stochastic_depth(input: Tensor, p: float, mode: str, training: bool = True) -> Tensor:
    """Drop a residual branch with probability `p` and rescale what is kept (Huang et al. 2016).

    `mode="batch"` drops it for the whole batch, `"row"` for each image by itself. (N, …) → the same shape.

    Raises:
        UsageError: `p` is outside 0–1, or the mode is another.
    """
    if not 0.0 <= p <= 1.0:
        raise UsageError(f"p, the probability to drop a branch, is {p}; it must be between 0 and 1.")
    if mode not in ("batch", "row"):
        raise UsageError(f"mode is {mode!r}; it must be 'batch' or 'row'.")
    if not training or p == 0.0:
        return input
    survival = 1.0 - p
    rows = input.shape[0] if mode == "row" else 1
    noise = torch.empty([rows] + [1] * (input.ndim - 1), dtype=input.dtype, device=input.device)
    noise = noise.bernoulli_(survival)
    if survival > 0.0:
        noise.div_(survival)
    return input * noise


class StochasticDepth(nn.Module):
    """`stochastic_depth` as a module, active in training only."""

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.p = p
        self.mode = mode

    def forward(self, input: Tensor) -> Tensor:
        return stochastic_depth(input, self.p, self.mode, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, mode={self.mode!r}"


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


def halving_convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of stride 2, in order."""
    return [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
