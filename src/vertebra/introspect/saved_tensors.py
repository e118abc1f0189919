"""Counts the bytes that autograd keeps of a forward pass for the backward pass, by asking autograd.

`anatomy.training_memory` forecasts a whole training step, gradients and optimiser included, by simulating it on shapes.
This counts what one forward pass of a real network on a real input leaves behind; the tests hold one against the other.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vertebra.graph.trace import OperationMode, apply_shape_rule

from .preserve import preserved


@dataclass(frozen=True)
class SavedBytes:
    """Bytes kept for the backward pass, each storage once."""

    activations: int  # floating-point values, without input and weights
    indices: int  # integers and booleans, such as where a max-pooling found its maxima
    input: int  # of the network's input, where it is kept
    weights: int  # parameters and buffers, which are in memory anyway

    @property
    def total(self) -> int:
        """All that is kept beside the weights."""
        return self.activations + self.indices + self.input


def count_saved_bytes(network: nn.Module, *args: Any, **kwargs: Any) -> SavedBytes:
    """Run `network(*args, **kwargs)` in its current mode and count what autograd keeps, on any device, meta included.

    Of a checkpointed block that is its input. The network is left as it was.
    """
    by_module = saved_bytes_by_module(network, *args, **kwargs).values()
    return SavedBytes(*(sum(getattr(saved, kind.name) for saved in by_module) for kind in fields(SavedBytes)))


def saved_bytes_by_module(network: nn.Module, *args: Any, **kwargs: Any) -> dict[str, SavedBytes]:
    """`count_saved_bytes` by the path of the innermost module that runs when a storage is first kept; "" is the whole.

    The input of a block that the network checkpoints is kept outside of the block.
    """
    inputs = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    weights = {_storage(tensor) for tensor in [*network.parameters(), *network.buffers()]}
    saved: dict[int, tuple[Tensor, str]] = {}
    running = [""]

    def pack(tensor: Tensor) -> Tensor:
        saved.setdefault(_storage(tensor), (tensor, running[-1]))  # held, so that no other storage gets its address
        return tensor

    def leave(*_: Any) -> None:
        running.pop()

    on_meta = any(leaf.is_meta for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    rules = _ShapeRules() if on_meta else nullcontext()
    with preserved(network) as handles, torch.enable_grad(), rules, hooks:
        for path, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, path=path: running.append(path)))
            handles.append(module.register_forward_hook(leave))
        network(*args, **kwargs)
    sums: dict[str, Counter[str]] = {}
    for storage, (tensor, path) in saved.items():
        kind = "activations" if tensor.is_floating_point() or tensor.is_complex() else "indices"
        kind = "input" if storage in inputs else "weights" if storage in weights else kind
        sums.setdefault(path, Counter())[kind] += tensor.untyped_storage().nbytes()
    kinds = [kind.name for kind in fields(SavedBytes)]
    return {path: SavedBytes(*(found[kind] for kind in kinds)) for path, found in sums.items()}


class _ShapeRules(OperationMode):  # type: ignore[no-untyped-call]
    """On the meta device, where torch has many operations in Python alone and imports its compiler for them: 2 s."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = apply_shape_rule(func, args, kwargs)
        return func(*args, **kwargs) if out is None else out


def _storage(tensor: Tensor) -> int:
    """What identifies a storage while it is in use; on the meta device all have the same address of data."""
    return int(tensor.untyped_storage()._cdata)
