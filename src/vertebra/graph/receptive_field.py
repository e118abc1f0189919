"""Receptive fields: how many input pixels, along each side, one output depends on, and which ones.

A kernel of size k and dilation d adds (k - 1) · d positions of its input, which are `jump` pixels apart; padding moves
the first of them (Araujo et al. 2019, https://distill.pub/2019/computing-receptive-fields/). Where paths meet, all of
their pixels count. This is the theoretical receptive field: it may be larger than the image, and central pixels have
more weight in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .cost import Cost, Kind
from .ir import Graph, Node, Tensor


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Cell i of a map depends, along each side, on the pixels from start + i · jump to start + i · jump + size - 1.

    Pixels below 0 or beyond the image are padding. A slice is taken to begin where the whole map does, and the windows
    of an adaptive pooling to be all alike.
    """

    size: tuple[int, ...]
    jump: tuple[int, ...]
    start: tuple[int, ...]
    sees_all: bool  # whether it depends on the whole input besides, by a gate, a global pooling or a linear layer


class ReceptiveFields:
    """The receptive field of each tensor; call `update` with each operation in order."""

    def __init__(self, graph: Graph) -> None:
        self._fields: dict[int, ReceptiveField] = {}
        self._batch = 1
        for ref in graph.inputs:
            if len(ref.shape) > 2 and (ref.is_floating_point or ref.dtype == "uint8"):
                self._batch = ref.shape[0]
                sides = len(ref.shape) - 2
                self._fields[ref.storage] = ReceptiveField((1,) * sides, (1,) * sides, (0,) * sides, False)

    def update(self, op: Node, cost: Cost) -> ReceptiveField | None:
        """The receptive field of the operation's output; None where it does not depend on the input."""
        sources = [ref for ref in op.inputs if ref.storage in self._fields]
        if not sources:
            return None
        field = self._field_after(op, cost, sources)
        for ref in op.outputs:
            self._fields[ref.storage] = field
        return field

    def _field_after(self, op: Node, cost: Cost, sources: list[Tensor]) -> ReceptiveField:
        field = self._merge_paths(op, sources)
        mixes = len(sources) > 1 if cost.rows is None else cost.rows == self._batch
        if cost.kind is Kind.MATMUL and mixes:
            # Attention, which multiplies two maps, or a linear layer on flattened features.
            return replace(field, sees_all=True)
        if len(cost.padding) == len(field.start):
            steps = zip(field.start, field.jump, cost.padding, strict=True)
            field = replace(field, start=tuple(start - jump * padding for start, jump, padding in steps))
        window, shape = cost.window, sources[0].shape
        if window is None or len(window.kernel) != len(field.size) or len(shape) != len(field.size) + 2:
            return field
        sides = zip(field.size, field.jump, window.kernel, window.dilation, strict=True)
        size = tuple(s + (k - 1) * d * j for s, j, k, d in sides)
        jump = tuple(j * s for j, s in zip(field.jump, window.stride, strict=True))
        pools_all = cost.kind is Kind.POOL and all(k >= side for k, side in zip(window.kernel, shape[2:], strict=True))
        return ReceptiveField(size, jump, field.start, field.sees_all or pools_all)

    def _merge_paths(self, op: Node, sources: list[Tensor]) -> ReceptiveField:
        """The field where paths meet. A 1 × 1 gate adds the whole input and keeps the size of the map's field."""
        out = op.outputs[0].shape
        maps = [ref for ref in sources if ref.shape[2:] == out[2:]] or sources
        found = [self._fields[ref.storage] for ref in maps]
        longest = max(found, key=lambda field: field.size)
        # Cells that are unequally far apart have no field in common: the longest then stands for all.
        found = [field for field in found if field.jump == longest.jump]
        start = tuple(map(min, zip(*(field.start for field in found), strict=True)))
        ends = (tuple(s + n for s, n in zip(field.start, field.size, strict=True)) for field in found)
        end = map(max, zip(*ends, strict=True))
        return ReceptiveField(
            tuple(last - first for first, last in zip(start, end, strict=True)),
            longest.jump,
            start,
            any(self._fields[ref.storage].sees_all for ref in sources),
        )
