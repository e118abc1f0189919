"""What the pooling of a VGG makes of each input size: which run with and without it, and what it computes.

What it computes is read off its answers to one-hot maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from vertebra.models import VGG
from vertebra.models.state_dict import meta_build

from .experiment import Figure, Measured
from .input_sizes import error_at, smallest_input


def pooling_by_size(build: Callable[[], VGG], sizes: Sequence[int]) -> Measured:
    """Which sizes run, whether 256 runs without the pooling, its bins there; its independent values at each size."""
    with meta_build():
        on_meta, network = build(), build().to_empty(device="cpu")
    pooling = network.avgpool

    def side(size: int) -> int:
        return int(on_meta.features(torch.empty(1, 3, size, size, device="meta")).shape[-1])

    independent = {size: independent_values(pooling, side(size)) for size in sizes}
    found = bins(pooling, side(256))
    errors = {"256, with": error_at(network, 256)}
    network.avgpool = nn.Identity()
    errors["256, without"] = error_at(network, 256)
    smallest = smallest_input(network.features)
    errors["below the smallest"] = error_at(network.features, smallest - 1)
    figures = {
        "sizes tried": len(sizes),
        "sizes that run": sum(error_at(on_meta, size) is None for size in sizes),
        "runs at 256": errors["256, with"] is None,
        "runs at 256 without the pooling": errors["256, without"] is None,
        "smallest size that leaves a map": smallest,
        "sizes from 224 to 255 at which the pooling changes nothing": sum(
            is_identity(pooling, side(size)) for size in range(224, 256)
        ),
        "side of the map at 256": side(256),
        "bins at 256": len(found),
        "bins at 256 that overlap the next": sum(a[1] > b[0] for a, b in pairwise(found)),
        **{f"independent values at {size}": n for size, n in independent.items() if size in (32, 112, 192, 224)},
    }
    return Measured(
        {name: Figure(int(value)) for name, value in figures.items()},
        {"bins": found, "errors": errors, "independent": {str(size): n for size, n in independent.items()}},
    )


def pooling_matrix(pooling: nn.Module, side: int) -> Tensor:
    """The matrix (outputs, side²) of a linear pooling of one channel of side × side values."""
    one_hot = torch.eye(side * side).view(side * side, 1, side, side)
    with torch.no_grad():
        found: Tensor = pooling(one_hot).flatten(1).T
    return found


def is_identity(pooling: nn.Module, side: int) -> bool:
    """Whether it returns maps of side × side as they are."""
    matrix = pooling_matrix(pooling, side)
    return matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, torch.eye(len(matrix)))


def independent_values(pooling: nn.Module, side: int) -> int:
    """How many of its outputs are independent: fewer than all where it repeats values or mixes few into many."""
    return int(torch.linalg.matrix_rank(pooling_matrix(pooling, side)))


def bins(pooling: nn.Module, side: int) -> list[tuple[int, int]]:
    """The rows [first, last) that each row of its outputs averages."""
    matrix = pooling_matrix(pooling, side)
    across = round(len(matrix) ** 0.5)
    first_column = matrix.view(across, -1, side, side)[:, 0]
    found = []
    for rows in (first_column.sum(2) > 0).tolist():
        used = [index for index, value in enumerate(rows) if value]
        found.append((used[0], used[-1] + 1))
    return found
