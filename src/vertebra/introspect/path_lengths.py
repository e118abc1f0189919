"""Gradients by path length: what paths through exactly k branches of a residual network carry to its input."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.errors import UsageError, require_positive_int

from .additions import intercept_additions
from .gradients import Loss, output_projection, require_scalar
from .preserve import preserved
from .residuals import residual_blocks


@dataclass(frozen=True)
class PathGradient:
    """The input gradient that paths of one length carry."""

    length: int  # branches on the path; all other blocks are passed by their skips
    paths: int  # how many paths have this length: a binomial coefficient
    norms: tuple[float, ...]  # L2 norm of the input gradient of each path that was measured

    @property
    def norm(self) -> float:
        """Mean norm of one path."""
        return statistics.fmean(self.norms)

    @property
    def total(self) -> float:
        """Mean norm of one path times the number of paths (Veit et al. 2016, Fig. 6c)."""
        return self.norm * self.paths


def path_length_gradients(
    network: nn.Module,
    inputs: Tensor,
    lengths: Iterable[int] | None = None,
    samples: int = 20,
    seed: int = 0,
    loss: Loss | None = None,
) -> tuple[PathGradient, ...]:
    """Norm of the input gradient along paths that pass exactly k branches (Veit et al. 2016, section 4.3).

    The forward pass is the whole network's, in the mode that it is in. In the backward pass k blocks chosen at random
    pass the gradient through their branch alone, all others through their skip alone.

    Args:
        network: a network with residual blocks.
        inputs: one batch.
        lengths: numbers k from 0 to the number of blocks; by default all.
        samples: paths a length; all of them where there are no more.
        seed: of the choice of paths.
        loss: output → scalar; by default `output_projection`.

    Raises:
        UsageError: there are no residual blocks, or no paths of such a length.
    """
    count = len(residual_blocks(network, inputs))
    require_positive_int("samples", samples)
    wanted = range(count + 1) if lengths is None else [_length(k, count) for k in lengths]
    on_branch: set[int] = set()

    def join(index: int, path: str, is_identity: bool, skip: Tensor, branch: Tensor) -> Tensor:
        joined: Tensor = _RoutedSum.apply(skip, branch, index, on_branch)
        return joined

    with torch.inference_mode(False), torch.enable_grad(), preserved(network) as handles:
        leaf = inputs.detach().clone().requires_grad_()
        intercept_additions(network, handles, join)
        scalar = require_scalar((loss or output_projection)(network(leaf.clone())))
        chooser = random.Random(seed)
        found = []
        for length in wanted:
            norms = []
            for subset in _subsets(count, length, samples, chooser):
                on_branch.clear()
                on_branch.update(subset)
                (gradient,) = torch.autograd.grad(scalar, leaf, retain_graph=True, materialize_grads=True)
                norms.append(float(gradient.double().norm()))
            found.append(PathGradient(length, math.comb(count, length), tuple(norms)))
    return tuple(found)


class _RoutedSum(torch.autograd.Function):
    """skip + branch, whose gradient goes to the branch alone if the index is in `on_branch`, else to the skip alone."""

    @staticmethod
    def forward(ctx: Any, skip: Tensor, branch: Tensor, index: int, on_branch: set[int]) -> Tensor:
        ctx.index, ctx.on_branch = index, on_branch
        return skip + branch

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        return (None, gradient, None, None) if ctx.index in ctx.on_branch else (gradient, None, None, None)


def _length(length: Any, count: int) -> int:
    if isinstance(length, bool) or not isinstance(length, int) or not 0 <= length <= count:
        raise UsageError(f"length {length!r} is no number of branches on a path: of {count} blocks, 0 to {count}.")
    return length


def _subsets(count: int, length: int, samples: int, chooser: random.Random) -> Collection[tuple[int, ...]]:
    """All subsets of this size, or as many different ones as are asked for, at random."""
    if math.comb(count, length) <= samples:
        return list(itertools.combinations(range(count), length))
    found: dict[tuple[int, ...], None] = {}  # in order of choice
    while len(found) < samples:
        found[tuple(sorted(chooser.sample(range(count), length)))] = None
    return found
