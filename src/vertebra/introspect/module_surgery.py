"""Replaces modules of a network in place, by kind and stage, with new ones on the network's device.

All functions of this package that replace blocks change the network that they are given and return it. For a copy, give
them `copy.deepcopy(network)`; on the meta device both are free.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vertebra.errors import UsageError, suggest
from vertebra.models import ConvNet
from vertebra.models.layers import Layer

Stages: TypeAlias = Sequence[str | int] | None  # names or numbers of stages; None: all
M = TypeVar("M", bound=nn.Module)


def replace_modules(
    network: nn.Module,
    what: str,
    is_kind: Callable[[nn.Module], bool],
    build: Callable[[Any], nn.Module],
    stages: Stages = None,
) -> nn.Module:
    """Replace each module that is of a kind by `build(module)`, in place, and return the network.

    A module that is used in several places stays shared, and what is inside of a replaced module is left alone. If the
    network itself is of that kind, what was built for it is returned.

    Raises:
        UsageError: no module is of that kind (`what` names it), or there is no such stage.
    """
    within = None if stages is None else stage_paths(network, stages)
    found: dict[str, nn.Module] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        if not is_kind(module) or any(_is_inside(path, outer) for outer in found):
            continue
        if within is None or any(_is_inside(path, stage) for stage in within):
            found[path] = module
    if not found:
        where = "" if stages is None else f" in {', '.join(map(str, stages))}"
        raise UsageError(f"{type(network).__name__} has no {what}{where}, so there is nothing to replace.")
    built = {module: build(module) for module in dict.fromkeys(found.values())}
    for path, module in found.items():  # once all are built: where that fails, the network is as it was
        if not path:
            return built[module]
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, built[module])
    return network


def stage_paths(network: nn.Module, stages: Sequence[str | int]) -> list[str]:
    """Paths of the modules of these stages, given by name ("stage2") or number (2 is the stage whose name ends in 2).

    Raises:
        UsageError: the network has no such stage, or no stages at all.
    """
    if not isinstance(network, ConvNet):
        raise UsageError(
            f"stages is {list(stages)}, and a {type(network).__name__} names no stages. Leave it out: all are replaced."
        )
    known = {stage.name: stage for stage in network.stages}
    numbers = {int(found[0]): name for name in known if (found := re.search(r"\d+$", name))}
    paths: list[str] = []
    for stage in stages:
        name = numbers.get(stage, str(stage)) if isinstance(stage, int) else stage
        if name not in known:
            raise UsageError(
                f"{type(network).__name__} has no stage {stage!r}; it has {', '.join(known)}. "
                f"{suggest(str(name), known)}".rstrip()
            )
        paths += known[name].modules
    return paths


def _is_inside(path: str, outer: str) -> bool:
    return path == outer or not outer or path.startswith(f"{outer}.")


def build_like(network: nn.Module, old: nn.Module, make: Callable[[], M]) -> M:
    """`make()` with the device, dtype and mode of `old`, initialised as the network's family initialises its layers."""
    like = next(old.parameters(), None)
    if like is None:
        like = next(network.parameters(), None)
    if like is None:
        return make().train(old.training)
    with like.device:
        new = make().to(like.dtype)
    if isinstance(network, ConvNet):
        network.initialise(new)
    return new.train(old.training)


def convolution_like(conv: nn.Conv2d, kind: type[nn.Conv2d] | None = None, **changes: Any) -> nn.Conv2d:
    """A new convolution with the settings of `conv` but for `changes`, of another class if `kind` is given.

    Raises:
        UsageError: its class takes other arguments than nn.Conv2d.
    """
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    settings = {name: getattr(conv, name) for name in names} | {"bias": conv.bias is not None} | changes
    try:
        return (kind or type(conv))(**settings)
    except TypeError as error:
        raise UsageError(
            f"a convolution is a {type(conv).__name__}, which cannot be built like an nn.Conv2d: {error}."
        ) from error


def norm_like(norm: nn.Module) -> Layer:
    """A function that makes norms with the settings of this one, given their channels.

    Raises:
        UsageError: it is neither a batch norm nor a group norm.
    """
    if isinstance(norm, _BatchNorm):
        names = ("eps", "momentum", "affine", "track_running_stats")
        return _with_channels(type(norm), **{name: getattr(norm, name) for name in names})
    if isinstance(norm, nn.GroupNorm):
        groups, eps, affine = norm.num_groups, norm.eps, norm.affine
        return lambda channels: nn.GroupNorm(groups, channels, eps=eps, affine=affine)
    if isinstance(norm, nn.Identity):
        return lambda channels: nn.Identity()
    raise UsageError(
        f"the norm of a block is a {type(norm).__name__}; new blocks can be built with a batch norm, a group norm or "
        "nn.Identity."
    )


def _with_channels(kind: Callable[..., nn.Module], **settings: Any) -> Layer:
    return lambda channels: kind(channels, **settings)
