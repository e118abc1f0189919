"""Convolutions in the order of the data: which 1×1 runs in front of a larger convolution, and which behind it.

Made from the rows of `vertebra.inspect`, so that it holds for any network, whatever its modules are called.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row

_TRANSPARENT = frozenset({Kind.NORM, Kind.ELEMENTWISE, Kind.VIEW})  # they change neither channels nor positions


@dataclass(frozen=True)
class Chain:
    """A convolution larger than 1×1, with the 1×1 in front and behind where there is one."""

    front: Row | None
    spatial: Row
    behind: Row | None

    @property
    def channels(self) -> tuple[int, int, int]:
        """Read by the whole chain, between its convolutions, and written by it."""
        first, last = self.front or self.spatial, self.behind or self.spatial
        return in_channels(first), in_channels(self.spatial), last.output_shape[1]

    @property
    def narrows(self) -> bool:
        """Whether the 1×1 in front has fewer channels out than in."""
        return self.front is not None and self.channels[1] < self.channels[0]

    @property
    def restores(self) -> bool:
        """Whether it narrows, and then writes at least as many channels as it read."""
        return self.narrows and self.channels[2] >= self.channels[0]

    @property
    def is_bottleneck(self) -> bool:
        """Whether a 1×1 narrows in front, and a 1×1 behind restores."""
        return self.restores and self.behind is not None

    @property
    def macs(self) -> int:
        """Of all its convolutions."""
        return sum(row.macs for row in (self.front, self.spatial, self.behind) if row is not None)


def in_channels(row: Row) -> int:
    """Input channels of a convolution."""
    return row.weight_shape[1] * row.groups


def pointwise(rows: Iterable[Row]) -> list[Row]:
    """The dense 1×1 convolutions on feature maps larger than one position, which leaves those of gates out."""
    return [row for row in rows if row.kind is Kind.POINTWISE and row.groups == 1 and _positions(row) > 1]


def direction(row: Row) -> str:
    """Whether a convolution "narrows", "keeps" or "widens" the channels."""
    change = row.output_shape[1] - in_channels(row)
    return "narrows" if change < 0 else "widens" if change > 0 else "keeps"


def convolution_chains(rows: Sequence[Row]) -> list[Chain]:
    """A chain for each convolution larger than 1×1, in order of execution.

    Norms, activations and gates may lie between; an addition, a concatenation or a pooling ends a chain.
    """
    readers = readers_of(rows)
    small = {row.index for row in pointwise(rows)}
    spatial = [row for row in rows if row.kind in CONVOLUTIONS and max(row.weight_shape[2:], default=1) > 1]
    in_front: dict[int, Row] = {}
    for row in pointwise(rows):
        in_front |= {reader.index: row for reader in next_convolutions(row, readers)}
    chains = []
    for row in spatial:
        behind = next((reader for reader in next_convolutions(row, readers) if reader.index in small), None)
        chains.append(Chain(in_front.get(row.index), row, behind))
    return chains


def macs_without_reductions(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The 1×1 that narrow in front of a larger convolution, and the network's MACs if all behind them read their input.

    Those in front of a grouped convolution are left out: it does not mix channels, so it cannot do without them.
    """
    readers = readers_of(rows)
    total = sum(row.macs for row in rows)
    reductions = []
    for row in pointwise(rows):
        behind = next_convolutions(row, readers)
        is_dense = behind and all(reader.groups == 1 for reader in behind)
        if direction(row) == "narrows" and is_dense and any(max(r.weight_shape[2:], default=1) > 1 for r in behind):
            reductions.append(row)
            factor = in_channels(row) / row.output_shape[1]
            total += sum(round(reader.macs * (factor - 1)) for reader in behind) - row.macs
    return reductions, total


def macs_with_plain_blocks(rows: Sequence[Row]) -> int:
    """The network's MACs if each bottleneck were two dense 3×3 of its outer width, the stride in the first."""
    total = sum(row.macs for row in rows)
    for chain in convolution_chains(rows):
        if chain.is_bottleneck and chain.behind is not None:
            read, _, written = chain.channels
            batch, _, *sides = chain.behind.output_shape
            total += 9 * (read + written) * written * batch * math.prod(sides) - chain.macs
    return total


def readers_of(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """For the index of a row, the rows that read its output; -1 is the network's input."""
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        for index in row.inputs:
            found[index].append(row)
    return found


def next_convolutions(row: Row, readers: dict[int, list[Row]]) -> list[Row]:
    """The convolutions that read a row's output through norms, activations and gates alone."""
    found: dict[int, Row] = {}
    seen, queue = {row.index}, [row]
    while queue:
        for reader in readers.get(queue.pop().index, ()):
            if reader.index in seen:
                continue
            seen.add(reader.index)
            if reader.kind in CONVOLUTIONS:
                found[reader.index] = reader
            elif reader.kind in _TRANSPARENT and reader.op != "add" and reader.output_shape[:2] == row.output_shape[:2]:
                queue.append(reader)
    return [found[index] for index in sorted(found)]


def _positions(row: Row) -> int:
    return math.prod(row.output_shape[2:])
