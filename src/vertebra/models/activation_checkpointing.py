"""Activation checkpointing: keep the input of a block for the backward pass, and compute the rest again.

Chen et al. 2016, https://arxiv.org/abs/1604.06174. Gradients and running statistics stay what they are without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def checkpointed(run: Callable[..., Tensor], *inputs: Tensor, norms: nn.Module) -> Tensor:
    """`run(*inputs)`, computed again in the backward pass; the batch norms in `norms` count each batch once."""
    contexts: dict[str, Any] = {}
    if not torch.compiler.is_compiling():  # a compiled graph changes the statistics once, however often it recomputes
        contexts = {"context_fn": lambda: (nullcontext(), _KeepStatistics(norms))}
    output: Tensor = checkpoint(run, *inputs, use_reentrant=False, **contexts)
    return output


def run_checkpointed(x: Tensor, layers: Iterable[Callable[[Tensor], Tensor]]) -> Tensor:
    """Run layers one after the other, of which each block is checkpointed."""
    for segment in _segments(layers):
        x = checkpointed(segment, x, norms=segment) if isinstance(segment, nn.Module) else segment(x)
    return x


def _segments(layers: Iterable[Callable[[Tensor], Tensor]]) -> Iterator[Callable[[Tensor], Tensor]]:
    """Blocks one by one; runs of single layers (a stem, VGG's convolutions) as one; functions as they are."""
    run: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Module) and not any(layer.children()):
            run.append(layer)
            continue
        if run:
            yield nn.Sequential(*run)
            run = []
        if not isinstance(layer, nn.Module):
            yield layer
            continue
        for block in list(layer) if type(layer) is nn.Sequential else [layer]:
            yield nn.Sequential(block)
    if run:
        yield nn.Sequential(*run)


class _KeepStatistics:
    """The second forward pass must not change the running statistics of batch norm a second time.

    Like torch's own contexts for recomputing it may be entered again: with `create_graph=True` the backward pass has a
    backward pass of its own, for which the block is computed a third time.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._kept: list[list[tuple[_NormBase, float | None, Tensor | None]]] = []  # one list each time it is entered

    def __enter__(self) -> None:
        norms = [m for m in self._module.modules() if isinstance(m, _NormBase) and m.track_running_stats and m.training]
        self._kept.append([(norm, norm.momentum, norm.num_batches_tracked) for norm in norms])
        for norm in norms:
            # Not track_running_stats = False: autograd would save two tensors less than in the first pass, and refuse.
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *_: object) -> None:
        for norm, momentum, num_batches_tracked in self._kept.pop():
            norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked
