"""How much of what enters a chain of residual blocks is left in what leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .additions import intercept_additions
from .preserve import preserved
from .residuals import ResidualBlock, residual_blocks


@dataclass(frozen=True)
class SurvivingInput:
    """Blocks that follow each other, of one shape and with identity skips: what the first adds to, and the last sum."""

    blocks: tuple[ResidualBlock, ...]
    share: float  # of the last sum's variance over images, what is linear in the first block's input: 0 to 1


def surviving_inputs(network: nn.Module, images: Tensor) -> tuple[SurvivingInput, ...]:
    """Squared correlation between each chain's input and its last sum, in the mode that the network is in.

    Each value is centred over the images first, so that what all of them share does not count. A constant map, and
    fewer than two images, give NaN.

    Raises:
        UsageError: there are no residual blocks.
    """
    chains = _chains(residual_blocks(network, images))
    begins, ends = {chain[0].index for chain in chains}, {chain[-1].index for chain in chains}
    inputs: list[Tensor] = []
    sums: list[Tensor] = []

    def join(index: int, path: str, is_identity: bool, skip: Tensor, branch: Tensor) -> None:
        if index in begins:
            inputs.append(skip.double())
        if index in ends:
            sums.append((skip + branch).double())

    with torch.inference_mode(False), torch.no_grad(), preserved(network) as handles:
        intercept_additions(network, handles, join)
        network(images.clone())
    shares = (_squared_correlation(*pair) for pair in zip(inputs, sums, strict=True))
    return tuple(SurvivingInput(tuple(chain), share) for chain, share in zip(chains, shares, strict=True))


def _chains(blocks: Sequence[ResidualBlock]) -> list[list[ResidualBlock]]:
    chains: list[list[ResidualBlock]] = []
    last = None
    for block in blocks:
        if block.is_identity:
            if last is not None and last.is_identity and last.shape == block.shape:
                chains[-1].append(block)
            else:
                chains.append([block])
        last = block
    return chains


def _squared_correlation(one: Tensor, other: Tensor) -> float:
    one, other = one - one.mean(0), other - other.mean(0)
    return float((one * other).sum() ** 2 / (one.square().sum() * other.square().sum()))
