"""The receptive field of one output cell by its gradient: the pixels of the input that it depends on.

`graph.receptive_field` computes the size from kernels and strides. This runs the network, and also shows a field that
the image cuts off, has holes (dilation, strides) or is the whole image (a gate).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vertebra.errors import UsageError, VertebraError, suggest

from .preserve import device_of


@dataclass(frozen=True)
class GradientField:
    """The pixels of the input with a gradient: their number, and the smallest box around them."""

    top: int
    left: int
    height: int
    width: int
    pixels: int
    input_size: tuple[int, int]
    output_size: tuple[int, int]  # of the layer
    cell: tuple[int, int]  # row and column in the layer's output

    @property
    def is_cut_off(self) -> bool:
        """Whether the box touches the border of the image, so that the field may be larger."""
        bottom, right = self.top + self.height, self.left + self.width
        return not (self.top > 0 and self.left > 0 and bottom < self.input_size[0] and right < self.input_size[1])


def receptive_field_by_gradient(
    network: nn.Module,
    input_size: int | tuple[int, int],
    layer: str,
    cell: tuple[int, int] | None = None,
    channels: int | None = None,
) -> GradientField:
    """Which pixels of the input one cell of a layer's output depends on.

    A copy of the network runs in float64 with positive weights, averages in place of maxima and no saturation, so that
    no gradient cancels or is lost.

    Args:
        network: any module; it is left as it was, and may be on the meta device.
        input_size: pixels, height and width or one for both.
        layer: path of a module whose output is (N, C, H, W); "" is the network itself.
        cell: row and column in that output; None: the central one.
        channels: of the input; None: as the first convolution takes.

    Raises:
        UsageError: there is no such layer or cell, the layer does not run, or has another kind of output.
        VertebraError: values overflow.
    """
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    linear = averaging_copy(network)
    modules = dict(linear.named_modules())
    if layer not in modules:
        raise UsageError(f"{type(network).__name__} has no layer {layer!r}. {suggest(layer, modules)}".rstrip())

    def read(module: nn.Module, args: Any, output: Any) -> None:
        raise _Reached(*_read_cell(layer, output, cell))

    modules[layer].register_forward_hook(read)
    channels = input_channels(linear) if channels is None else channels
    x = torch.ones(1, channels, height, width, dtype=torch.float64, device=device_of(linear), requires_grad=True)
    try:
        with torch.enable_grad(), WithoutSelection():
            linear(x)
    except _Reached as reached:
        value, output_size, cell = reached.args
    else:
        raise UsageError(f"the layer {layer!r} does not run in eval mode; choose another one.")
    (gradient,) = torch.autograd.grad(value, x)
    if not gradient.isfinite().all():
        raise VertebraError(f"the gradient of {layer!r} overflows, so that no receptive field can be read off it.")
    depends = gradient[0].ne(0).any(0)
    rows, columns = (depends.any(dim).nonzero().flatten().tolist() or [0, -1] for dim in (1, 0))
    return GradientField(
        top=rows[0],
        left=columns[0],
        height=rows[-1] - rows[0] + 1,
        width=columns[-1] - columns[0] + 1,
        pixels=int(depends.sum()),
        input_size=(height, width),
        output_size=output_size,
        cell=cell,
    )


class _Reached(Exception):  # noqa: N818
    """The layer has run, and nothing behind it needs to: the cell's value, the size of the output, the cell."""


def _read_cell(
    layer: str, output: Any, cell: tuple[int, int] | None
) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
    if not isinstance(output, Tensor) or output.ndim != 4:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(f"the layer {layer!r} returns {shape}; choose one with an output (N, C, H, W).")
    height, width = output.shape[2:]
    row, column = (height // 2, width // 2) if cell is None else cell
    if not (0 <= row < height and 0 <= column < width):
        raise UsageError(f"cell is {cell}, and the output of {layer!r} has {height} × {width} cells.")
    return output[0, :, row, column].sum(), (height, width), (row, column)


def averaging_copy(network: nn.Module) -> nn.Module:
    """A copy in eval mode whose layers take averages: weights sum to 1 for each output, and norms change nothing."""
    linear = copy.deepcopy(network).double().eval()
    if any(parameter.is_meta for parameter in linear.parameters()):
        linear = linear.to_empty(device="cpu")
    for name, parameter in linear.named_parameters():
        is_bias = name.rpartition(".")[2] == "bias"
        parameter.requires_grad_(False).fill_(0 if is_bias else 1 if parameter.ndim < 2 else 1 / parameter[0].numel())
    for name, buffer in linear.named_buffers():
        if buffer.is_floating_point():
            buffer.fill_(0 if name.rpartition(".")[2] == "running_mean" else 1)
    return linear


def input_channels(network: nn.Module) -> int:
    """Channels that the first convolution reads; 3 where there is none."""
    return next((layer.in_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)), 3)


# Monotone functions that are the identity, or nearly so, for positive values that do not saturate.
_ACTIVATIONS = {"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "silu", "hardswish", "gelu", "leaky_relu", "elu"}
# Norms that take the statistics of their input, in which the gradients of a sum cancel.
_NORMS = {"layer_norm", "group_norm", "instance_norm", "rms_norm"}


class WithoutSelection(TorchFunctionMode):
    """Averages instead of maxima, of which the gradient reaches one pixel alone, and no activations and norms."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in _ACTIVATIONS | _NORMS:
            return args[0] if args else kwargs["input"]
        if func in (F.max_pool2d, torch.max_pool2d, F.adaptive_max_pool2d):
            return _average(func, *args, **kwargs)
        return func(*args, **kwargs)


def _average(func: Any, x: Tensor, size: Any, *args: Any, **kwargs: Any) -> Tensor:
    """The average pooling with the window of this max-pooling."""
    if func is F.adaptive_max_pool2d:
        return F.adaptive_avg_pool2d(x, size)
    names = ("stride", "padding", "dilation", "ceil_mode")
    options = dict(zip(names, args, strict=False)) | {name: kwargs[name] for name in names if name in kwargs}
    if options.pop("dilation", 1) not in (1, (1, 1), [1, 1]):
        raise UsageError("a max-pooling is dilated, of which there is no average; replace it by a convolution.")
    return F.avg_pool2d(x, size, **options)
