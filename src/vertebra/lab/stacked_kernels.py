"""Stacks of 3×3 convolutions: runs in which each reads the one before it, beside one kernel with their field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row

from .convolution_chains import in_channels, next_convolutions, readers_of
from .experiment import Figure


@dataclass(frozen=True)
class Stack:
    """At least two dense 3×3 convolutions of stride 1, one behind the other."""

    rows: tuple[Row, ...]

    @property
    def field(self) -> int:
        """Side of the receptive field of the last one in the input of the first."""
        return 2 * len(self.rows) + 1

    @property
    def weights(self) -> int:
        """Of all of them, without biases."""
        return sum(math.prod(row.weight_shape) for row in self.rows)

    @property
    def weights_of_one_kernel(self) -> int:
        """Of a single convolution with the same field, input and output."""
        return self.field**2 * in_channels(self.rows[0]) * self.rows[-1].weight_shape[0]


def stacks(rows: Sequence[Row]) -> list[Stack]:
    """The longest runs, in order; norms and activations may lie between, additions and poolings may not."""
    readers = readers_of(rows)
    able = {row.index: row for row in rows if _is_3x3(row)}
    following = {
        index: behind[0]
        for index, row in able.items()
        if len(behind := next_convolutions(row, readers)) == 1 and behind[0].index in able
    }
    behind_another = {row.index for row in following.values()}
    found = []
    for index, row in able.items():
        if index in following and index not in behind_another:
            run = [row]
            while run[-1].index in following:
                run.append(following[run[-1].index])
            found.append(Stack(tuple(run)))
    return found


def stack_figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """How many convolutions there are, of 3×3, in stacks of them; the weights of the stacks, and of one kernel each."""
    convolutions = [row for row in rows if row.kind in CONVOLUTIONS]
    runs = stacks(rows)
    return {
        "convolutions": Figure(len(convolutions)),
        "convolutions of 3×3": Figure(sum(row.weight_shape[2:] == (3, 3) for row in convolutions)),
        "convolutions in stacks of 3×3": Figure(sum(len(run.rows) for run in runs)),
        "weights of the stacks": Figure(sum(run.weights for run in runs)),
        "weights of one kernel for each stack": Figure(sum(run.weights_of_one_kernel for run in runs)),
    }


def poolings_without_growth(rows: Sequence[Row]) -> int:
    """Max-poolings whose next convolution writes as many channels as it reads."""
    readers = readers_of(rows)
    behind = [next_convolutions(row, readers) for row in rows if row.op == "max_pool2d"]
    return sum(all(row.weight_shape[0] == in_channels(row) for row in found) for found in behind if found)


def _is_3x3(row: Row) -> bool:
    return (
        row.kind is Kind.DENSE and row.weight_shape[2:] == (3, 3) and set(row.stride) == {1} and "dil" not in row.detail
    )
