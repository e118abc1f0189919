"""Receptive fields: how many pixels of the input, along each side, one output depends on.

A window of k positions, each d apart, depends on (k - 1) · d more positions of its input, which are `jump` pixels apart
(Araujo et al. 2019, https://distill.pub/2019/computing-receptive-fields/). Of several paths the longest counts. It is
the theoretical field: it may be larger than the image, and of what it covers the middle weighs most.
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
    """The field of each tensor, brought up to date with `step`, operation by operation."""

    def __init__(self, graph: Graph) -> None:
        self._fields: dict[int, _Field] = {}
        self._batch = 1
        for ref in graph.inputs:
            if len(ref.shape) > 2 and (ref.is_floating_point or ref.dtype == "uint8"):
                self._batch = ref.shape[0]
                ones = (1,) * (len(ref.shape) - 2)
                self._fields[ref.storage] = _Field(ones, ones, False)

    def step(self, op: Node, cost: Cost) -> tuple[tuple[int, ...] | None, bool]:
        """The field of this operation's result, and whether the whole input reaches it."""
        sources = [ref for ref in op.inputs if ref.storage in self._fields]
        if not sources:
            return None, False
        field = self._after(op, cost, sources)
        for ref in op.outputs:
            self._fields[ref.storage] = field
        return field.size, field.sees_all

    def _after(self, op: Node, cost: Cost, sources: list[Tensor]) -> _Field:
        field = self._joined(op, sources)
        mixes = len(sources) > 1 if cost.rows is None else cost.rows == self._batch
        if cost.kind is Kind.MATMUL and mixes:
            # Attention, which multiplies two maps, or a layer on the flattened features of each image.
            return replace(field, sees_all=True)
        window, shape = cost.window, sources[0].shape
        if window is None or len(window.kernel) != len(field.size) or len(shape) != len(field.size) + 2:
            return field
        steps = zip(field.size, field.jump, window.kernel, window.dilation, strict=True)
        size = tuple(s + (k - 1) * d * j for s, j, k, d in steps)
        jump = tuple(j * s for j, s in zip(field.jump, window.stride, strict=True))
        pools_all = cost.kind is Kind.POOL and all(k >= side for k, side in zip(window.kernel, shape[2:], strict=True))
        return _Field(size, jump, field.sees_all or pools_all)

    def _joined(self, op: Node, sources: list[Tensor]) -> _Field:
        """Where paths meet. A gate of 1 × 1 brings the whole input to a map and leaves the map's own field."""
        out = op.outputs[0].shape
        maps = [ref for ref in sources if ref.shape[2:] == out[2:]] or sources
        found = [self._fields[ref.storage] for ref in maps]
        longest = max(found, key=lambda field: field.size)
        return replace(longest, sees_all=any(self._fields[ref.storage].sees_all for ref in sources))
