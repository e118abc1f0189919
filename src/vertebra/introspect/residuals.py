"""Residual blocks: what skip and branch contribute on given images, and the network without one or the other."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor, nn

from vertebra.errors import UsageError

from .additions import intercept_additions
from .preserve import hooks, preserved
from .running_modules import batches_of


@dataclass(frozen=True)
class ResidualBlock:
    """The addition of a module's input, or of a projection of it, to a branch."""

    index: int  # 0 for the first that runs
    path: str  # of the module that adds; twice where it adds twice, as transformer blocks do
    is_identity: bool  # the skip is the module's input itself
    shape: tuple[int, ...]  # of the sum, without the batch


@dataclass(frozen=True)
class Contribution:
    """What a block adds up: root mean squares over all values of all images."""

    block: ResidualBlock
    skip: float
    branch: float
    sum: float


def residual_blocks(network: nn.Module, images: Tensor) -> tuple[ResidualBlock, ...]:
    """Find the residual blocks, in order of execution, by running the network on the first image in evaluation mode.

    Recognised is an addition (`+`, `+=`, `torch.add`) of two maps of one shape within the `forward()` of a module, of
    which one is the module's input or is made of it by functions without weights, or by a child with fewer layers than
    the branch has: all blocks of the families here, of torchvision and timm, and any `x + f(x)` in a module.

    Raises:
        UsageError: there is none.
    """
    found: list[ResidualBlock] = []

    def join(index: int, path: str, is_identity: bool, skip: Tensor, branch: Tensor) -> None:
        found.append(ResidualBlock(index, path, is_identity, tuple(branch.shape[1:])))

    with torch.inference_mode(False), torch.no_grad(), preserved(network) as handles:
        network.eval()
        intercept_additions(network, handles, join)
        network(next(batches_of(images))[:1])
    if not found:
        raise UsageError(
            f"no residual block was found in this {type(network).__name__}: no module adds its own input, or a "
            "projection of it, to a branch. VGG, GoogLeNet and DenseNet have none; a network of your own needs a "
            "module whose forward() returns x + f(x)."
        )
    return tuple(found)


def contributions(network: nn.Module, images: Tensor | Iterable[Tensor]) -> tuple[Contribution, ...]:
    """How large skip, branch and sum of each residual block are on these images, in the network's present mode.

    Raises:
        UsageError: there are no residual blocks or no images.
    """
    batches = [images] if isinstance(images, Tensor) else list(images)
    blocks = residual_blocks(network, next(batches_of(batches)))
    squares = [[0.0, 0.0, 0.0] for _ in blocks]
    count = [0] * len(blocks)

    def join(index: int, path: str, is_identity: bool, skip: Tensor, branch: Tensor) -> None:
        count[index] += branch.numel()
        for i, part in enumerate((skip, branch, skip + branch)):
            squares[index][i] += float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2

    with torch.inference_mode(False), torch.no_grad(), preserved(network) as handles:
        intercept_additions(network, handles, join)
        for batch in batches_of(batches):
            network(batch)
    return tuple(
        Contribution(block, *(math.sqrt(square / number) for square in sums))
        for block, sums, number in zip(blocks, squares, count, strict=True)
    )


_ablated: WeakSet[nn.Module] = WeakSet()


@contextlib.contextmanager
def ablated_blocks(
    network: nn.Module, *, branches: Iterable[ResidualBlock] = (), skips: Iterable[ResidualBlock] = ()
) -> Iterator[None]:
    """Within the block the network lacks these branches (each block returns its skip) and skips (its branch).

    A block without its branch is the identity, or its projection, and what follows the addition in it: the ReLU of a
    ResNet, which leaves the output of the block before as it is. The network may be trained meanwhile.

    Args:
        network: the network.
        branches: blocks of `residual_blocks(network, …)` that lose their branch, as in Veit et al. 2016, section 4.
        skips: blocks that lose their skip, and are plain then.

    Raises:
        UsageError: a block is named twice, or the call is within another for the same network.
    """
    branches, skips = list(branches), list(skips)
    drop_branch, drop_skip = ({block.index for block in blocks} for blocks in (branches, skips))
    if both := drop_branch & drop_skip:
        raise UsageError(f"block {min(both)} would lose its branch and its skip, and nothing would be left of it.")
    if network in _ablated:
        raise UsageError("the network lacks blocks already; name all of them in one ablated_blocks(…).")

    def join(index: int, path: str, is_identity: bool, skip: Tensor, branch: Tensor) -> Tensor | None:
        return skip if index in drop_branch else branch if index in drop_skip else None

    _ablated.add(network)
    try:
        with hooks() as handles:
            intercept_additions(network, handles, join)
            yield
    finally:
        _ablated.discard(network)
