"""The classifier of any network, from the rows of `vertebra.inspect`, against one linear layer on pooled channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vertebra.errors import UsageError
from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row


@dataclass(frozen=True)
class Head:
    """Fully connected layers on one vector an image, behind all layers that work on maps or tokens."""

    parameters: int
    channels: int  # of the last feature map
    classes: int

    @property
    def pooled_parameters(self) -> int:
        """Of one linear layer with bias, on the mean of each channel."""
        return (self.channels + 1) * self.classes


def head_of(name: str, rows: Sequence[Row]) -> Head:
    """The head of a network, from the rows for one image.

    Raises:
        UsageError: the network has no convolution, or no fully connected layer behind the last one.
    """
    if not any(row.kind in CONVOLUTIONS for row in rows):
        raise UsageError(f"{name} has no convolution, so no feature maps that could be pooled.")
    layers = [row for row in rows if row.kind in (*CONVOLUTIONS, Kind.MATMUL)]
    # Linear layers of transformers and of ConvNeXt's blocks work on every token or position: they are no head.
    last = max(row.index for row in layers if row.output_shape != (1, row.output_shape[-1]))
    linear = [row for row in layers if row.index > last]
    if not linear:
        raise UsageError(f"{name} has no fully connected layer behind its last convolution, so no head to replace.")
    maps = [row for row in rows if row.index < linear[0].index and len(row.output_shape) == 4]
    reads, shape = linear[0].input_shapes[0][-1], maps[-1].output_shape
    channels = shape[1] if reads == math.prod(shape) else reads  # flattened, or pooled already
    return Head(sum(row.parameters for row in linear), channels, linear[-1].output_shape[-1])
