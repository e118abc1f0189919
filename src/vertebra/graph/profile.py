"""The rows of a network with their sums: whole, by stage and by block. Nothing here needs torch."""

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
    """Rows that belong together, with their sums: a stage, a block or a module."""

    name: str
    rows: tuple[Row, ...]

    parameters = _summed("parameters")  # trainable and frozen values; a tensor used twice counts where it is used first
    macs = _summed("macs")
    other_ops = _summed("other_ops")
    weight_bytes = _summed("weight_bytes")
    read_bytes = _summed("read_bytes")
    write_bytes = _summed("write_bytes")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the last result."""
        return next((row.output_shape for row in reversed(self.rows) if row.output_shape), ())

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """Receptive field of the last result that has one, in pixels of the input, along the longest path."""
        return next((row.receptive_field for row in reversed(self.rows) if row.receptive_field), None)

    def to_dict(self) -> dict[str, Any]:
        """The sums, and the indices of the rows."""
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
    """A network's rows for one input. `name` is the network's; all sums are for the whole batch."""

    input: str  # in words: "float32 1 × 3 × 224 × 224"
    input_shapes: tuple[tuple[int, ...], ...]  # of each tensor that it was given
    batch_size: int  # images
    dtype: str  # of the weights: "float32"
    parameter_bytes: int

    @cached_property
    def stages(self) -> tuple[Group, ...]:
        """The rows by stage, in the order in which the stages begin."""
        return _grouped(self.rows, "stage")

    @cached_property
    def blocks(self) -> tuple[Group, ...]:
        """The rows by block: a residual block, an Inception module, a dense layer; or a layer that is in none."""
        return _grouped(self.rows, "block")

    @property
    def layers(self) -> tuple[Row, ...]:
        """The rows that do something: without views."""
        return tuple(row for row in self.rows if row.kind is not Kind.VIEW)

    @property
    def unknown(self) -> tuple[Row, ...]:
        """Operations whose arithmetic is not known; their bytes are counted, and no MACs."""
        return tuple(row for row in self.rows if row.kind is Kind.UNKNOWN)

    @property
    def peak_activation_bytes(self) -> int:
        """Most memory that activations take at one moment of inference, if each is freed after its last use.

        The input counts until it has been read, the result from its making. Weights are not in it.
        """
        return 0 if self.peak_row is None else self.peak_row.live_bytes

    @cached_property
    def peak_row(self) -> Row | None:
        """The operation at which the activations take most memory."""
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
