"""Which modules are running: hooks on all modules of a network, for what intercepts the functions that they call."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vertebra.errors import UsageError


class TensorList:
    """Tensors that are compared by identity and not kept alive."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._references = [weakref.ref(tensor) for tensor in tensors]

    def __contains__(self, tensor: object) -> bool:
        return any(reference() is tensor for reference in self._references)

    def __iter__(self) -> Iterator[Tensor]:
        return (tensor for reference in self._references if (tensor := reference()) is not None)

    def append(self, tensor: Tensor) -> None:
        """Add one."""
        self._references.append(weakref.ref(tensor))


@dataclass
class ModuleCall:
    """A module that is running, what it was given, and the children that it has called, with what they returned."""

    path: str
    module: nn.Module
    inputs: TensorList
    children: list[tuple[ModuleCall, TensorList]] = field(default_factory=list)
    derived: TensorList = field(default_factory=TensorList)  # the rest is for who intercepts functions
    preactivated: TensorList = field(default_factory=TensorList)


class RunningModules:
    """The modules that are running, the innermost last; `handles` gets the hooks."""

    def __init__(self, network: nn.Module, handles: list[torch.utils.hooks.RemovableHandle]) -> None:
        self.calls: list[ModuleCall] = []
        for path, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._enter, path), with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave, always_call=True))

    @property
    def path(self) -> str:
        """Path of the innermost; "" for the network itself."""
        return self.calls[-1].path if self.calls else ""

    def _enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.calls.append(ModuleCall(path, module, TensorList(tensors_in((args, kwargs)))))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self.calls.pop()
        call.children.clear()
        if self.calls:
            self.calls[-1].children.append((call, TensorList(tensors_in(output))))


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def batches_of(images: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    """One batch (N, C, H, W), or several; copied, since a network may work in place.

    Raises:
        UsageError: there is none, or it is no tensor.
    """
    count = 0
    for batch in [images] if isinstance(images, Tensor) else images:
        if not isinstance(batch, Tensor) or not batch.ndim or not len(batch):
            found = f"a tensor {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
            raise UsageError(f"images are a tensor (N, C, H, W) or several such batches with images, got {found}.")
        count += 1
        yield batch.clone()
    if not count:
        raise UsageError("there are no images: images is empty.")
