"""Slopes of activation functions on given images: the share of values without gradient, and of dead channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vertebra.errors import UsageError

from .preserve import preserved
from .running_modules import RunningModules, batches_of

# Functions of torch that work value by value, without the underscore of the forms that work in place.
FUNCTIONS = {"relu", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "threshold"}
FUNCTIONS |= {"silu", "mish", "gelu", "hardswish", "softplus", "softsign", "softshrink", "hardshrink", "tanhshrink"}
FUNCTIONS |= {"sigmoid", "hardsigmoid", "logsigmoid", "tanh"}


@dataclass(frozen=True)
class ActivationSlopes:
    """The slopes of one activation on all values of some images."""

    path: str  # of the innermost module that runs it: the activation itself, or whose forward() calls the function
    call: int  # 0 for the first activation at this path in a forward pass; ResNet's blocks use one ReLU repeatedly
    function: str  # torch's name, or the class of a module of one's own
    values: int
    flat_values: int  # absolute slope below the threshold
    channels: int  # along the second axis
    dead_channels: int  # no value of any image has a slope

    @property
    def flat_share(self) -> float:
        """Share of values without gradient, 0 to 1."""
        return self.flat_values / self.values

    @property
    def dead_share(self) -> float:
        """Share of dead channels, 0 to 1."""
        return self.dead_channels / self.channels


def activation_slopes(
    network: nn.Module, images: Tensor | Iterable[Tensor], threshold: float = 1e-3
) -> tuple[ActivationSlopes, ...]:
    """Count values and channels without slope at each activation, in order of execution.

    Found are torch's functions in `FUNCTIONS`, as modules or as calls in a `forward()` (gates' sigmoids as well, see
    `function`), and other modules without weights that work value by value and are not linear. Slopes are autograd's,
    so ReLU's at 0 is 0. The network runs in the mode that it is in.

    Args:
        network: any module; channels are the second axis of its maps.
        images: one batch, or several that are taken one after the other.
        threshold: a value with a smaller absolute slope counts as flat.

    Raises:
        UsageError: no activation runs, or there are no images.
    """
    if not threshold > 0:
        raise UsageError(f"threshold is {threshold!r}; it must be above 0, as ReLU's slope is exactly 0 or 1.")
    with torch.inference_mode(False), torch.no_grad(), preserved(network) as handles:
        counter = _SlopeCounter(network, handles, threshold)
        for batch in batches_of(images):
            counter.calls.clear()
            with counter:
                network(batch)
    if not counter.found:
        raise UsageError(
            f"no activation of this {type(network).__name__} was found. Known are {', '.join(sorted(FUNCTIONS))} "
            "and modules of one's own that work value by value; compiled and scripted networks hide theirs."
        )
    return tuple(
        ActivationSlopes(*key, count.values, count.flat, len(count.alive), int((~count.alive).sum()))
        for key, count in counter.found.items()
    )


@dataclass
class _Count:
    alive: Tensor  # (C,)
    values: int = 0
    flat: int = 0


class _SlopeCounter(TorchFunctionMode):
    """Counts while it is active; functions within a module that is an activation itself are left out."""

    def __init__(self, network: nn.Module, handles: list[torch.utils.hooks.RemovableHandle], threshold: float) -> None:
        super().__init__()
        self.found: dict[tuple[str, int, str], _Count] = {}
        self.calls: Counter[str] = Counter()
        self._threshold = threshold
        self._running = RunningModules(network, handles)
        self._own: dict[nn.Module, bool] = {}  # whether a module of one's own is an activation
        for module in network.modules():
            if _may_be_activation(module):
                handles.append(module.register_forward_pre_hook(self._enter))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name in FUNCTIONS and not (self._running.calls and self._own.get(self._running.calls[-1].module)):
            others = {key: value for key, value in kwargs.items() if key != "input"}
            x, *rest = (kwargs["input"],) if "input" in kwargs else args
            if isinstance(x, Tensor) and x.is_floating_point():
                self._count(self._running.path, name, x, lambda leaf: func(leaf, *rest, **others))
        return func(*args, **kwargs)

    def _enter(self, module: nn.Module, args: Any) -> None:
        if len(args) != 1 or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return
        with torch._C.DisableTorchFunction():
            if module not in self._own:
                self._own[module] = _is_activation(module.forward, args[0])
            if self._own[module]:
                self._count(self._running.path, type(module).__name__, args[0], module.forward)

    def _count(self, path: str, function: str, x: Tensor, run: Callable[[Tensor], Tensor]) -> None:
        flat = _slopes(run, x).abs() < self._threshold
        by_channel = flat.transpose(0, 1).flatten(1) if flat.ndim > 1 else flat[None]
        alive = ~by_channel.all(1)
        key = (path, self.calls[path], function)
        self.calls[path] += 1
        count = self.found.setdefault(key, _Count(torch.zeros_like(alive)))
        count.alive |= alive
        count.values += flat.numel()
        count.flat += int(flat.sum())


def _slopes(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The derivative of each output value by its input value."""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        out = run(leaf.clone())  # a clone, for functions that work in place
        return torch.autograd.grad(out.sum(), leaf)[0] if out.requires_grad else torch.zeros_like(leaf)


def _may_be_activation(module: nn.Module) -> bool:
    """A module of one's own, without children and kernels. What torch's own modules are is known by their functions."""
    is_plain = not any(True for _ in module.children()) and all(p.ndim < 2 for p in module.parameters())
    return is_plain and not type(module).__module__.startswith("torch.")


def _is_activation(run: Callable[[Tensor], Any], like: Tensor) -> bool:
    """Whether the output has the shape of the input, each value depends on its own alone, and not linearly."""
    generator = torch.Generator().manual_seed(0)
    order, places = (torch.randperm(like.numel(), generator=generator).to(like.device) for _ in range(2))
    probe = torch.linspace(-8, 8, like.numel(), dtype=like.dtype, device=like.device)[order]
    half = len(probe) // 2
    moved = probe / 3
    moved[places[:half]] = probe[:half]  # the same values elsewhere, with others beside them
    with torch.no_grad():
        one, other = (run(values.view_as(like).clone()) for values in (probe, moved))
    if not all(isinstance(out, Tensor) and out.shape == like.shape for out in (one, other)):
        return False
    # Vectorised code rounds its last values otherwise than the first.
    if not torch.allclose(one.flatten()[:half], other.flatten()[places[:half]], rtol=1e-2, atol=1e-3):
        return False
    try:
        slopes = _slopes(run, probe.view_as(like))
    except RuntimeError:  # written for use without gradients
        return False
    return bool((slopes - slopes.flatten()[0]).abs().max() > 1e-3)
