"""Which modules are running: hooks on all modules of a network, for what intercepts the functions that they call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vertebra.errors import UsageError


@dataclass
class ModuleCall:
    """A module that is running, what it was given, and what the children that it has called gave it."""

    path: str
    module: nn.Module
    inputs: list[Tensor]
    children: list[tuple[ModuleCall, list[Tensor]]] = field(default_factory=list)  # with their outputs


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
        self.calls.append(ModuleCall(path, module, _tensors((args, kwargs))))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self.calls.pop()
        if self.calls:
            self.calls[-1].children.append((call, _tensors(output)))


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


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
