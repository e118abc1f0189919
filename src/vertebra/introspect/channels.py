"""Zero channels of a module's input or output: a share of each image's by their scores, or a fixed range."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from vertebra.errors import UsageError, suggest

from .preserve import hooks

Place = Literal["input", "output"]
ORDERS = ("lowest", "highest", "random")
# A score of each channel of each image: a tensor (N, C); a function of the values (N, C, …) that returns it; the path
# of a module that returns it, (N, C) or (N, C, 1, 1), earlier in the same forward pass.
Score = Tensor | Callable[[Tensor], Tensor] | str


@contextlib.contextmanager
def zeroed_channels(
    network: nn.Module,
    path: str,
    share: float,
    order: str,
    score: Score | None = None,
    place: Place = "input",
    seed: int = 0,
) -> Iterator[None]:
    """Within the block a share of each image's channels is zero at one module.

    Args:
        network: any module.
        path: of the module in it whose input or output is changed, (N, C, …).
        share: of the channels, 0 to 1, rounded to a number of channels.
        order: "lowest" or "highest" by `score`, or "random".
        score: a tensor (N, C), a function of the values such as `contribution_score`, or the path of a module that runs
            before and returns it, such as the `gate_path` of a `GateLayer`.
        place: "input" (the first tensor that the module is given) or "output".
        seed: of the random order.

    Raises:
        UsageError: an argument has no such value, or the scores are not those of the values' channels.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"share is {share!r}; it must be between 0 and 1.")
    if order not in ORDERS:
        raise UsageError(f"order is {order!r}; it must be one of {', '.join(ORDERS)}. {suggest(str(order), ORDERS)}")
    if (score is None) != (order == "random"):
        raise UsageError(
            f"order is {order!r}, and score is {'missing' if score is None else 'given'}: "
            "'lowest' and 'highest' are by a score, 'random' is without one."
        )
    generator = torch.Generator().manual_seed(seed)
    seen: list[Tensor] = []  # what the module at the path `score` has returned

    def change(values: Tensor) -> Tensor:
        if score is None:
            scores = torch.rand(values.shape[:2], generator=generator).to(values.device)
        else:
            scores = _scores(score, seen, values)
        count = round(share * values.shape[1])
        chosen = scores.argsort(stable=True, dim=1, descending=order == "highest")[:, :count]
        mask = torch.ones(values.shape[:2], dtype=values.dtype, device=values.device).scatter_(1, chosen, 0)
        return values * mask.reshape(*mask.shape, *[1] * (values.ndim - 2))

    with hooks() as handles:
        if isinstance(score, str):
            handles.append(module_at(network, score).register_forward_hook(lambda _, args, output: seen.append(output)))
        with changed_values(network, path, change, place):
            yield


@contextlib.contextmanager
def zeroed_range(network: nn.Module, path: str, start: int, stop: int, place: Place = "input") -> Iterator[None]:
    """Within the block the channels from `start` to before `stop` are zero at one module, such as one source of a
    concatenation.
    """

    def change(values: Tensor) -> Tensor:
        if not 0 <= start < stop <= values.shape[1]:
            raise UsageError(f"channels {start} to {stop} are no range of the {values.shape[1]} at {path!r}.")
        mask = torch.ones(values.shape[1], dtype=values.dtype, device=values.device)
        mask[start:stop] = 0
        return values * mask.reshape(-1, *[1] * (values.ndim - 2))

    with changed_values(network, path, change, place):
        yield


def contribution_score(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """A score of the inputs of a convolution or linear layer: mean |value| × L2 norm of the weights that read it.

    That is how far an input channel can change the output. (N, C, …) → (N, C).

    Raises:
        UsageError: the layer has no such weights, or its convolution has groups.
    """
    if not isinstance(layer, _ConvNd | nn.Linear) or getattr(layer, "groups", 1) != 1:
        raise UsageError(f"a contribution is to a convolution without groups or a linear layer, and this is {layer}.")
    axis = int(isinstance(layer, _ConvNd) and layer.transposed)
    norms = layer.weight.detach().transpose(0, 1 - axis).flatten(1).norm(dim=1)
    return lambda values: values.detach().abs().flatten(2).mean(2) * norms if values.ndim > 2 else values.abs() * norms


@contextlib.contextmanager
def changed_values(
    network: nn.Module, path: str, change: Callable[[Tensor], Tensor], place: Place = "input"
) -> Iterator[None]:
    """Within the block a module's input (its first tensor) or output is what `change` makes of it.

    Raises:
        UsageError: there is no such module, or the place is another.
    """
    module = module_at(network, path)
    if place not in ("input", "output"):
        raise UsageError(f"place is {place!r}; it must be 'input' or 'output'.")

    def before(_: nn.Module, args: Any) -> Any:
        if not args or not isinstance(args[0], Tensor):
            raise UsageError(f"module {path!r} is not given a tensor as its first argument. Name one within it.")
        return (change(args[0]), *args[1:])

    def after(_: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            raise UsageError(f"module {path!r} returns {type(output).__name__}, no tensor. Name one within it.")
        return change(output)

    with hooks() as handles:
        if place == "input":
            handles.append(module.register_forward_pre_hook(before))
        else:
            handles.append(module.register_forward_hook(after))
        yield


def module_at(network: nn.Module, path: str) -> nn.Module:
    """The module of this path; a `UsageError` with the nearest if there is none."""
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if path not in modules:
        hint = suggest(path, modules) or f"Its modules are {', '.join(name for name, _ in network.named_children())}."
        raise UsageError(f"this {type(network).__name__} has no module {path!r}. {hint}")
    return modules[path]


def _scores(score: Score, seen: list[Tensor], values: Tensor) -> Tensor:
    if isinstance(score, str):
        if not seen:
            raise UsageError(f"module {score!r}, which is to give the scores, has not run before the values.")
        found = seen[-1].detach()
        seen.clear()
        found = found.flatten(1) if found.shape[2:].numel() == 1 else found
    else:
        found = score if isinstance(score, Tensor) else score(values)
    if found.shape != values.shape[:2]:
        raise UsageError(
            f"the scores have shape {tuple(found.shape)}, and the values {tuple(values.shape)}; one score for each "
            "channel of each image is needed."
        )
    return found.to(values.device)
