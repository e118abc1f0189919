"""The classifier of any network, from the rows of `vertebra.inspect`, against one linear layer on pooled channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vertebra.errors import UsageError
from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row


@dataclass(frozen=True)
class Head:
    """Fully connected layers behind the last convolution."""

    parameters: int
    channels: int  # of the last feature map
    classes: int

    @property
    def pooled_parameters(self) -> int:
        """Of one linear layer with bias, on the mean of each channel."""
        return (self.channels + 1) * self.classes


def head_of(name: str, rows: Sequence[Row]) -> Head:
    """The head of a network.

    Raises:
        UsageError: the network has no convolution, or no fully connected layer behind the last one.
    """
    last = max((row.index for row in rows if row.kind in CONVOLUTIONS), default=None)
    if last is None:
        raise UsageError(f"{name} has no convolution, so no feature maps that could be pooled.")
    behind = [row for row in rows if row.index > last and row.kind is not Kind.UNUSED]
    linear = [row for row in behind if row.kind is Kind.MATMUL]
    if not linear:
        raise UsageError(f"{name} has no fully connected layer behind its last convolution, so no head to replace.")
    maps = [row for row in rows if row.index < linear[0].index and len(row.output_shape) == 4]
    return Head(sum(row.parameters for row in linear), maps[-1].output_shape[1], linear[-1].output_shape[-1])
