"""Intercept the additions of residual blocks while a network runs: which operand is the skip, which the branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from .running_modules import ModuleCall, RunningModules, tensors_in

# Join(index, path, is_identity, skip, branch) → what takes the place of their sum; None: the sum.
Join = Callable[[int, str, bool, Tensor, Tensor], Tensor | None]


def intercept_additions(network: nn.Module, handles: list[torch.utils.hooks.RemovableHandle], join: Join) -> None:
    """Call `join` for each addition of a residual block, numbered from 0 in each forward pass, until hooks are removed.

    Functions are intercepted during the network's forward pass alone.
    """
    mode = _AdditionMode(network, handles, join)
    handles.append(network.register_forward_pre_hook(mode.start))
    # Of two that intercept, the one that started last stops first.
    handles.append(network.register_forward_hook(mode.stop, always_call=True, prepend=True))


class _AdditionMode(TorchFunctionMode):
    def __init__(self, network: nn.Module, handles: list[torch.utils.hooks.RemovableHandle], join: Join) -> None:
        super().__init__()
        self._join = join
        self._index = 0
        self._is_active = False
        self._running = RunningModules(network, handles)

    def start(self, network: nn.Module, args: Any) -> None:
        self._index, self._is_active = 0, True
        self.__enter__()  # type: ignore[no-untyped-call]

    def stop(self, network: nn.Module, args: Any, output: Any) -> None:
        if self._is_active:
            self._is_active = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("add", "add_") and len(args) == 2 and not kwargs:
            first, second = args
            for call in reversed(self._running.calls):
                if _is_skip(call, first) and _is_skip(call, second):
                    continue  # a module that only adds: its caller knows
                if (found := _skip_and_branch(call, first, second)) is not None:
                    total = self._joined(call, *found, run=lambda: func(first, second))
                    result = first.copy_(total) if name == "add_" and total is not first else total
                    call.inputs.append(result)  # a further addition in the same module
                    return result
                break
        result = func(*args, **kwargs)
        if self._running.calls and isinstance(result, Tensor) and (tensors := tensors_in((args, kwargs))):
            call = self._running.calls[-1]
            # What a module makes of its input by functions without weights, such as a strided slice padded with zeros.
            if all(_is_skip(call, tensor) for tensor in tensors):
                if result not in call.inputs:
                    call.derived.append(result)
            elif all(_is_preactivated(call, tensor) for tensor in tensors):
                call.preactivated.append(result)
        return result

    def _joined(self, call: ModuleCall, skip: Tensor, branch: Tensor, run: Callable[[], Tensor]) -> Tensor:
        index, self._index = self._index, self._index + 1
        with torch._C.DisableTorchFunction():
            joined = self._join(index, call.path, skip in call.inputs, skip, branch)
        return run() if joined is None else joined


def _is_skip(call: ModuleCall, tensor: Any) -> bool:
    return tensor in call.inputs or tensor in call.derived


def _skip_and_branch(call: ModuleCall, first: Any, second: Any) -> tuple[Tensor, Tensor] | None:
    pair = (first, second)
    if not all(isinstance(t, Tensor) and t.is_floating_point() and t.ndim > 1 for t in pair):
        return None
    if first.shape != second.shape or any(isinstance(tensor, nn.Parameter) for tensor in pair):
        return None
    if _is_skip(call, first) != _is_skip(call, second):
        return pair if _is_skip(call, first) else (second, first)
    # A projection: a child that was given the module's input, and has fewer layers than the branch.
    layers = [_layers_of_projection(call, tensor) for tensor in pair]
    if layers[0] == layers[1]:
        return None
    return pair if layers[0] < layers[1] else (second, first)


def _layers_of_projection(call: ModuleCall, tensor: Tensor) -> float:
    """Convolutions and linear layers of the child that made this of the module's input; infinite if none did."""
    for child, outputs in call.children:
        if tensor in outputs and any(_is_preactivated(call, given) for given in child.inputs):
            return _count_layers(child.module)
    return float("inf")


def _is_preactivated(call: ModuleCall, tensor: Tensor) -> bool:
    """Whether it is the module's input, or that after norms and activations, as in He et al. 2016."""
    return (
        _is_skip(call, tensor)
        or tensor in call.preactivated
        or any(
            tensor in outputs
            and not _count_layers(child.module)
            and any(_is_preactivated(call, given) for given in child.inputs if given is not tensor)
            for child, outputs in call.children
        )
    )


def _count_layers(module: nn.Module) -> int:
    return sum(isinstance(layer, _ConvNd | nn.Linear) for layer in module.modules())
