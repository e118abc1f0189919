"""Receptive fields: how many input pixels, along each side, one output depends on.

A kernel of size k and dilation d adds (k - 1) · d positions of its input, which are `jump` pixels apart (Araujo et al.
2019, https://distill.pub/2019/computing-receptive-fields/). Of several paths the longest counts. This is the
theoretical receptive field: it may be larger than the image, and central pixels have more weight in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .cost import Cost, Kind
from .ir import Graph, Node, Tensor


@dataclass(frozen=True, slots=True)
class _Field:
    size: tuple[int, ...]
    jump: tuple[int, ...]
    sees_all: bool


class ReceptiveFields:
    """The receptive field of each tensor; call `update` with each operation in order."""

    def __init__(self, graph: Graph) -> None:
        self._fields: dict[int, _Field] = {}
        self._batch = 1
        for ref in graph.inputs:
            if len(ref.shape) > 2 and (ref.is_floating_point or ref.dtype == "uint8"):
                self._batch = ref.shape[0]
                ones = (1,) * (len(ref.shape) - 2)
                self._fields[ref.storage] = _Field(ones, ones, False)

    def update(self, op: Node, cost: Cost) -> tuple[tuple[int, ...] | None, bool]:
        """The receptive field of the operation's output, and whether it depends on the whole input."""
        sources = [ref for ref in op.inputs if ref.storage in self._fields]
        if not sources:
            return None, False
        field = self._field_after(op, cost, sources)
        for ref in op.outputs:
            self._fields[ref.storage] = field
        return field.size, field.sees_all

    def _field_after(self, op: Node, cost: Cost, sources: list[Tensor]) -> _Field:
        field = self._merge_paths(op, sources)
        mixes = len(sources) > 1 if cost.rows is None else cost.rows == self._batch
        if cost.kind is Kind.MATMUL and mixes:
            # Attention, which multiplies two maps, or a linear layer on flattened features.
            return replace(field, sees_all=True)
        window, shape = cost.window, sources[0].shape
        if window is None or len(window.kernel) != len(field.size) or len(shape) != len(field.size) + 2:
            return field
        steps = zip(field.size, field.jump, window.kernel, window.dilation, strict=True)
        size = tuple(s + (k - 1) * d * j for s, j, k, d in steps)
        jump = tuple(j * s for j, s in zip(field.jump, window.stride, strict=True))
        pools_all = cost.kind is Kind.POOL and all(k >= side for k, side in zip(window.kernel, shape[2:], strict=True))
        return _Field(size, jump, field.sees_all or pools_all)

    def _merge_paths(self, op: Node, sources: list[Tensor]) -> _Field:
        """The field where paths meet. A 1 × 1 gate adds the whole input and keeps the size of the map's field."""
        out = op.outputs[0].shape
        maps = [ref for ref in sources if ref.shape[2:] == out[2:]] or sources
        found = [self._fields[ref.storage] for ref in maps]
        longest = max(found, key=lambda field: field.size)
        return replace(longest, sees_all=any(self._fields[ref.storage].sees_all for ref in sources))
