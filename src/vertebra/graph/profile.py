"""The rows of a network and their sums: in total, by stage and by block. Without torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .cost import Kind
from .rows import Row, Sums

SUMS = ("parameters", "macs", "flops", "other_ops", "weight_bytes", "read_bytes", "write_bytes", "bytes")


def _summed(name: str) -> cached_property[int]:
    return cached_property(lambda group: sum(getattr(row, name) for row in group.rows))


@dataclass(frozen=True)
class Group(Sums):
    """Rows and their sums: of a stage, a block or a whole network."""

    name: str
    rows: tuple[Row, ...]

    parameters = _summed("parameters")  # trainable and frozen; shared ones count at their first use
    macs = _summed("macs")
    other_ops = _summed("other_ops")
    weight_bytes = _summed("weight_bytes")
    read_bytes = _summed("read_bytes")
    write_bytes = _summed("write_bytes")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the last output."""
        return next((row.output_shape for row in reversed(self.rows) if row.output_shape), ())

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """The last receptive field, in input pixels, along the longest path."""
        return next((row.receptive_field for row in reversed(self.rows) if row.receptive_field), None)

    def to_dict(self) -> dict[str, Any]:
        """The sums and the indices of the rows."""
        return {
            "name": self.name,
            **{name: getattr(self, name) for name in SUMS},
            "intensity": self.intensity,
            "output_shape": self.output_shape,
            "receptive_field": self.receptive_field,
            "rows": [row.index for row in self.rows],
        }


@dataclass(frozen=True)
class Profile(Group):
    """The rows of a network for one input; sums are for the whole batch."""

    input: str  # such as "float32 1 × 3 × 224 × 224"
    input_shapes: tuple[tuple[int, ...], ...]  # of each input tensor
    batch_size: int  # images
    dtype: str  # of the weights: "float32"
    parameter_bytes: int

    @cached_property
    def stages(self) -> tuple[Group, ...]:
        """The rows by stage, in order of their first rows."""
        return _grouped(self.rows, "stage")

    @cached_property
    def blocks(self) -> tuple[Group, ...]:
        """The rows by block: a residual block, an Inception module, a dense layer, or a layer outside of blocks."""
        return _grouped(self.rows, "block")

    @property
    def layers(self) -> tuple[Row, ...]:
        """The rows without views."""
        return tuple(row for row in self.rows if row.kind is not Kind.VIEW)

    @property
    def unknown(self) -> tuple[Row, ...]:
        """Operations of unknown cost, which count with their bytes and no MACs."""
        return tuple(row for row in self.rows if row.kind is Kind.UNKNOWN)

    @property
    def peak_activation_bytes(self) -> int:
        """Peak memory of activations in inference, if each is freed after its last use; without weights."""
        return 0 if self.peak_row is None else self.peak_row.live_bytes

    @cached_property
    def peak_row(self) -> Row | None:
        """The operation at which activation memory peaks."""
        return max(self.rows, key=lambda row: row.live_bytes, default=None)

    def to_dict(self) -> dict[str, Any]:
        """The sums, the stages, the blocks and every row."""
        peak = self.peak_row
        return {
            **super().to_dict(),
            "input": self.input,
            "input_shapes": self.input_shapes,
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "parameter_bytes": self.parameter_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "peak_row": None if peak is None else peak.index,
            "unknown": [row.index for row in self.unknown],
            "stages": [group.to_dict() for group in self.stages],
            "blocks": [group.to_dict() | {"stage": group.rows[0].stage} for group in self.blocks],
            "rows": [row.to_dict() for row in self.rows],
        }


def _grouped(rows: Iterable[Row], attribute: str) -> tuple[Group, ...]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(getattr(row, attribute), []).append(row)
    return tuple(Group(name, tuple(members)) for name, members in groups.items())
