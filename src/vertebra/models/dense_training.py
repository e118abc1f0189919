"""Trains dense blocks and transitions as one operation each, wherever that gives what their layers would give.

The operations are those of `dense_block_function`: less memory, the same gradients and running statistics up to
rounding. Only `memory_efficient` networks have it, as its time depends on how much of the cache other programs leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from .dense_block_function import DenseBlockFunction, TransitionFunction

# Values of a block's output below which its layers run one by one: such maps stay in the cache anyway, and the calls
# take longer than the values.
_LEAST = 2**19
_is_enabled = ContextVar("_is_enabled", default=True)


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Within, all layers run one by one: for measurements of the layers themselves."""
    token = _is_enabled.set(False)
    try:
        yield
    finally:
        _is_enabled.reset(token)


def can_fuse_block(layers: Sequence[Any], x: Any) -> bool:
    """Whether these dense layers are `memory_efficient`, and `train_block` gives what they would.

    That is in training, in float32 or float64, on the CPU (on CUDA nobody has measured it), and where the layers are as
    they were built and nothing watches them or their operations: no hooks, no tracing, no autocast. Small maps are left
    to the layers.
    """
    return (
        bool(layers)
        and _is_trained_on(x)
        and all(
            layer.memory_efficient
            and _is_unchanged(layer, type(layer))
            and not layer.drop_rate
            and _is_norm(layer.norm1, x)
            and _is_unchanged(layer.relu1, nn.ReLU)
            and _is_conv(layer.conv1, x, layer.norm1.num_features, 1)
            and _is_norm(layer.norm2, x)
            and _is_unchanged(layer.relu2, nn.ReLU)
            and _is_conv(layer.conv2, x, layer.norm2.num_features, 3)
            and layer.conv1.out_channels == layer.norm2.num_features
            for layer in layers
        )
        and _is_large(layers, x)
        and _requires_grad(x, layers)
    )


def can_fuse_transition(transition: Any, x: Any) -> bool:
    """Whether a transition is `memory_efficient`, and `train_transition` gives what it would; as `can_fuse_block`."""
    return (
        transition.memory_efficient
        and _is_trained_on(x)
        and x.numel() >= _LEAST
        and min(x.shape[2:]) >= 2
        and [name for name, _ in transition.named_children()] == ["norm", "relu", "conv", "pool"]
        and _is_norm(transition.norm, x)
        and transition.norm.num_features == x.shape[1]
        and _is_unchanged(transition.relu, nn.ReLU)
        and _is_conv(transition.conv, x, x.shape[1], 1)
        and _is_unchanged(transition.pool, nn.AvgPool2d)
        and transition.pool.extra_repr() == nn.AvgPool2d(2, 2).extra_repr()
        and transition.pool.divisor_override is None
        and _requires_grad(x, [transition])
    )


def train_block(layers: Sequence[Any], x: Tensor) -> Tensor:
    """What these dense layers make of `x` together, (N, C, H, W) → (N, C + layers · growth rate, H, W)."""
    parameters = [
        parameter
        for layer in layers
        for parameter in (
            *(layer.norm1.weight, layer.norm1.bias, layer.conv1.weight),
            *(layer.norm2.weight, layer.norm2.bias, layer.conv2.weight),
        )
    ]
    eps = [(layer.norm1.eps, layer.norm2.eps) for layer in layers]
    given = x.contiguous(memory_format=torch.channels_last)
    out: Tensor
    out, mean, var, *others = DenseBlockFunction.apply(given, eps, *parameters)
    rows = x.numel() // x.shape[1]
    for index, layer in enumerate(layers):
        channels = layer.norm1.num_features
        _count_batch(layer.norm1, mean[:channels], var[:channels], rows)
        _count_batch(layer.norm2, others[2 * index], others[2 * index + 1], rows)
    return out if given is x else out.contiguous()


def train_transition(transition: Any, x: Tensor) -> Tensor:
    """What a transition makes of `x`, (N, C, H, W) → (N, C', H/2, W/2)."""
    norm = transition.norm
    out: Tensor
    given = x.contiguous(memory_format=torch.channels_last)
    out, mean, var = TransitionFunction.apply(given, norm.eps, norm.weight, norm.bias, transition.conv.weight)
    _count_batch(norm, mean, var, x.numel() // x.shape[1])
    return out if given is x else out.contiguous()


def _count_batch(norm: Any, mean: Tensor, var: Tensor, rows: int) -> None:
    """Take the statistics of a batch into the running ones, as `nn.BatchNorm2d.forward` does."""
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, momentum or 0.0)
    norm.running_var.lerp_(var * (rows / (rows - 1)), momentum or 0.0)


def _is_trained_on(x: Any) -> bool:
    # What records the operations comes first: it would record the questions that follow, too.
    return (
        not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and type(x) is Tensor
        and torch._C._functorch.peek_interpreter_stack() is None  # torch.func
        and forward_ad._current_level < 0
        and not _has_any_global_hook()  # type: ignore[no-untyped-call]
        and all(type(mode) is DeviceContext for mode in _get_current_function_mode_stack())  # type: ignore[no-untyped-call]
        and not torch.is_autocast_enabled("cpu")
        and torch.is_grad_enabled()
        and _is_enabled.get()
        and x.device.type in ("cpu", "meta")
        and x.dtype in (torch.float32, torch.float64)
        and x.ndim == 4
        and x.numel() > x.shape[1]  # batch norm refuses a single value
    )


def _is_unchanged(module: Any, kind: type) -> bool:
    """Neither of another class, which parametrisations make, nor with hooks or a `forward` of its own."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return type(module) is kind and not any(getattr(module, name) for name in hooks) and "forward" not in vars(module)


def _is_norm(norm: Any, x: Tensor) -> bool:
    return (
        _is_unchanged(norm, nn.BatchNorm2d)
        and norm.training
        and norm.track_running_stats
        and all(_is_like(tensor, x) for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    )


def _is_conv(conv: Any, x: Tensor, channels: int, kernel: int) -> bool:
    return (
        _is_unchanged(conv, nn.Conv2d)
        and _is_like(conv.weight, x)
        and conv.weight.shape == (conv.out_channels, channels, kernel, kernel)
        and conv.bias is None
        and (conv.stride, conv.padding, conv.dilation) == ((1, 1), (kernel // 2, kernel // 2), (1, 1))
        and conv.padding_mode == "zeros"
    )


def _is_like(tensor: Any, x: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.device == x.device and tensor.dtype == x.dtype


def _is_large(layers: Sequence[Any], x: Tensor) -> bool:
    """Whether each layer reads as many channels as there are by then, and the last map is large enough."""
    channels = x.shape[1]
    for layer in layers:
        if layer.norm1.num_features != channels:
            return False
        channels += layer.conv2.out_channels
    return x.numel() // x.shape[1] * channels >= _LEAST


def _requires_grad(x: Tensor, modules: Sequence[nn.Module]) -> bool:
    return x.requires_grad or any(parameter.requires_grad for module in modules for parameter in module.parameters())
