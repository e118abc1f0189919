"""Groups rows into the kernels that an executor runs, by its fusion rules.

torch in eager mode runs each operation by itself. ONNX Runtime folds batch norms into convolutions, and fuses a
following addition and activation into the convolution, if the activation is one comparison or sigmoid (not SiLU). A
compiler for GPUs fuses every activation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row

EAGER, ONNXRUNTIME, COMPILED = "torch", "onnxruntime", "compiled"

_CLAMPS = frozenset({"relu", "relu6", "hardtanh", "leaky_relu", "sigmoid"})
_ACTIVATIONS = _CLAMPS | {"silu", "gelu", "hardswish", "hardsigmoid"}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One or more rows that run as one kernel."""

    rows: tuple[Row, ...]

    @property
    def main(self) -> Row:
        """The row that dominates the time: the first, or the second if the first pads its input."""
        return self.rows[self.rows[0].op == "pad" and len(self.rows) > 1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(row.macs for row in self.rows)

    @property
    def operations(self) -> int:
        """FLOPs and other arithmetic."""
        return sum(row.flops + row.other_ops for row in self.rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights; those of a folded norm do not count."""
        return self.main.weight_bytes

    @property
    def read_bytes(self) -> int:
        """Bytes of activations read: by the first row, and the other operand of a fused addition."""
        return self.rows[0].read_bytes + sum(
            row.read_bytes - row.write_bytes for row in self.rows[1:] if row.op == "add"
        )

    @property
    def write_bytes(self) -> int:
        """Bytes of the last row's output."""
        return self.rows[-1].write_bytes

    @property
    def bytes(self) -> int:
        """Memory traffic."""
        return self.weight_bytes + self.read_bytes + self.write_bytes


def build_kernels(rows: Sequence[Row], executor: str) -> list[Kernel]:
    """Group the rows into kernels, in order, without views and rows that do not run."""
    running = [row for row in rows if row.kind not in (Kind.VIEW, Kind.UNUSED)]
    if executor == EAGER:
        return [Kernel((row,)) for row in running]
    activations = _CLAMPS if executor == ONNXRUNTIME else _ACTIVATIONS
    # Concatenating one tensor is a copy in torch, and removed in a graph.
    running = [row for row in running if not _is_trivial(row)]
    readers = Counter(source for row in rows for source in _sources(row, rows))
    taken: set[int] = set()
    following = {source: row for row in running for source in _sources(row, rows) if readers[source] == 1}
    kernels = []
    for row in running:
        if row.index in taken:
            continue
        group = [row]
        pads = following.get(row.index) if row.op == "pad" else None
        if pads is not None and pads.kind in CONVOLUTIONS:
            group.append(pads)
            taken.add(pads.index)
        for can_fuse in _fusable_followers(group[-1], activations):
            follower = following.get(group[-1].index)
            if follower is not None and follower.index not in taken and can_fuse(follower):
                group.append(follower)
                taken.add(follower.index)
        kernels.append(Kernel(tuple(group)))
    return kernels


def _sources(row: Row, rows: Sequence[Row]) -> tuple[int, ...]:
    """The rows that compute the inputs of a row, through views and concatenations of one tensor."""
    found = []
    for index in row.inputs:
        while index >= 0 and (rows[index].kind is Kind.VIEW or _is_trivial(rows[index])) and rows[index].inputs:
            index = rows[index].inputs[0]
        found.append(index)
    return tuple(found)


def _is_trivial(row: Row) -> bool:
    return row.op == "concat" and len(row.input_shapes) == 1


def _fusable_followers(row: Row, activations: frozenset[str]) -> list[Callable[[Row], bool]]:
    """Conditions on the rows that may be fused after this one, in order; each is optional."""

    def is_norm(other: Row) -> bool:
        return other.op == "batch_norm"

    def is_sum(other: Row) -> bool:
        return other.op == "add" and len(set(other.input_shapes)) == 1 and len(other.inputs) == 2

    def is_activation(other: Row) -> bool:
        return other.op in activations

    if row.kind in CONVOLUTIONS:
        return [is_norm, is_sum, is_activation]
    return [is_activation] if row.kind in (Kind.NORM, Kind.MATMUL) else []
