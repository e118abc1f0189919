"""The rows of a graph: each operation with its stage, cost, memory traffic, live memory and receptive field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from . import aten_cost, onnx_cost
from .cost import Cost, Kind
from .ir import Graph, Node, Tensor
from .receptive_field import ReceptiveFields
from .stage_names import StageNames


class Sums:
    """Figures derived from the cost of an operation, or from summed costs."""

    __slots__ = ()
    macs: int
    other_ops: int
    weight_bytes: int
    read_bytes: int
    write_bytes: int

    @property
    def flops(self) -> int:
        """2 × MACs."""
        return 2 * self.macs

    @property
    def bytes(self) -> int:
        """Memory traffic: weights and activations read, outputs written."""
        return self.weight_bytes + self.read_bytes + self.write_bytes

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: all operations per byte of memory traffic."""
        return (self.flops + self.other_ops) / self.bytes if self.bytes else 0.0


@dataclass(frozen=True, slots=True)
class Row(Sums):
    """One operation.

    Memory traffic assumes that nothing stays in a cache: each distinct input is read once, and each output written
    once. A view moves no data; an in-place operation reads and writes the same tensor.
    """

    index: int  # 0 is the first
    name: str  # "layer1.0.conv1"; "layer1.0.add" for an operation that is not a module
    op: str  # "conv2d"
    kind: Kind
    detail: str  # "3×3, stride 2"
    stage: str
    block: str
    module: str  # path of the module that ran it; "" is the network itself
    module_type: str  # "Conv2d"
    output_shape: tuple[int, ...] = ()
    dtype: str = ""
    parameters: int = 0  # of the tensors that this row is the first to use
    macs: int = 0
    other_ops: int = 0  # additions, comparisons, … outside of MACs
    weight_bytes: int = 0
    read_bytes: int = 0  # activations
    write_bytes: int = 0
    live_bytes: int = 0  # activations in memory while it runs: inputs, outputs, and those that later rows read
    receptive_field: tuple[int, ...] | None = None  # in input pixels, along the longest path
    sees_all: bool = False  # whether it depends on the whole input, by a global pooling, a gate or a linear layer
    in_place: bool = False
    inputs: tuple[int, ...] = ()  # indices of the rows that it reads; -1 is the network's input
    input_shapes: tuple[tuple[int, ...], ...] = ()  # of activations
    weight_shape: tuple[int, ...] = ()  # of a convolution or matrix product, as the network has it
    stride: tuple[int, ...] = ()
    groups: int = 1

    def to_dict(self) -> dict[str, Any]:
        """All fields and derived figures, for JSON."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {
            "kind": self.kind.value,
            "flops": self.flops,
            "bytes": self.bytes,
            "intensity": self.intensity,
        }


def build_rows(graph: Graph) -> list[Row]:
    """One row for each operation of the graph, and one for each module whose parameters are not used."""
    kept = nodes_with_costs(graph)
    ops = [op for op, _ in kept]
    last_use = _last_use(ops, graph)
    live = _live_bytes(ops, last_use, graph)
    names = StageNames(graph, [op.module for op, c in kept if c.kind is not Kind.VIEW])
    fields = ReceptiveFields(graph)
    shapes = _WeightShapes(graph)
    writers = _Writers(graph)
    used: set[int] = set()
    rows: list[Row] = []
    for index, (op, c) in enumerate(kept):
        weights = [ref for ref in op.inputs if graph.is_weight(ref)]
        activations = [ref for ref in op.inputs if not graph.is_weight(ref)]
        results = _results(op, index, last_use)
        read, written, weight_bytes = (sum(ref.nbytes for ref in refs) for refs in (activations, results, weights))
        if c.kind is Kind.VIEW:
            read = written = weight_bytes = 0
        elif c.is_lookup:  # it reads only what it returns, from a weight or an activation
            weight_bytes, read = (written, read) if weights else (0, min(read, 2 * written))
        field = fields.update(op, c)
        new = {ref.storage for ref in weights} - used
        used |= new
        rows.append(
            Row(
                index=index,
                name=op.name if graph.is_onnx else names.name(op.module, c.name, bool(weights)),
                op=c.name,
                kind=c.kind,
                detail=c.detail,
                stage=names.stage(op.module),
                block=names.block(op.module),
                module=op.module,
                module_type=graph.modules[op.module].type or op.op,
                output_shape=op.outputs[0].shape,
                dtype=op.outputs[0].dtype,
                parameters=sum(graph.storages[storage].parameters for storage in new),
                macs=c.macs,
                other_ops=c.other_ops,
                weight_bytes=weight_bytes,
                read_bytes=read,
                write_bytes=written,
                live_bytes=live[index],
                receptive_field=field.size if field else None,
                sees_all=field is not None and field.sees_all,
                in_place=op.in_place,
                inputs=writers.of(activations),
                input_shapes=tuple(ref.shape for ref in activations),
                weight_shape=shapes.of(op, weights) if c.macs else (),
                stride=c.window.stride if c.window else (),
                groups=c.groups,
            )
        )
        writers.add(op, index)
    used_paths = {graph.storages[storage].path for storage in used}
    return rows + list(_unused_rows(graph, used_paths, len(rows)))


class _WeightShapes:
    """The shape of each operation's weight in the network: ATen multiplies by the transpose of a linear layer's."""

    def __init__(self, graph: Graph) -> None:
        self._originals = {
            node.outputs[0]: node.inputs[0]
            for node in graph.nodes
            if node.op in ("t", "transpose", "permute") and len(node.inputs) == 1 and graph.is_weight(node.inputs[0])
        }

    def of(self, op: Node, weights: Sequence[Tensor]) -> tuple[int, ...]:
        """The shape of the weight among these, the others being a bias or the scales of quantisation; () for none."""
        addend = op.arguments.get("self") if op.op in aten_cost.WITH_ADDEND else None
        found = max((ref for ref in weights if ref != addend), key=lambda ref: len(ref.shape), default=None)
        return () if found is None else self._originals.get(found, found).shape


class _Writers:
    """Which row each tensor is from: a view is from the row that made it, what it is a view of is not."""

    def __init__(self, graph: Graph) -> None:
        self._rows = {ref.storage: -1 for ref in graph.inputs}  # storage -> the last row that wrote into it
        self._views: dict[tuple[int, tuple[int, ...], tuple[int, ...]], int] = {}

    def add(self, op: Node, index: int) -> None:
        """Take in the outputs of an operation."""
        for ref in op.outputs:
            if op.is_view and ref.storage in self._rows:
                self._views[ref.storage, ref.shape, ref.layout] = index
            else:
                self._rows[ref.storage] = index

    def of(self, refs: Iterable[Tensor]) -> tuple[int, ...]:
        """The rows of these tensors; those of no row, such as constants, are left out."""
        known = [ref for ref in refs if ref.storage in self._rows]
        # A later row may have written into the memory of a view.
        found = (
            max(self._rows[ref.storage], self._views.get((ref.storage, ref.shape, ref.layout), -1)) for ref in known
        )
        return tuple(dict.fromkeys(found))


def nodes_with_costs(graph: Graph) -> list[tuple[Node, Cost]]:
    """The operations that get a row, with their costs: all but views of weights and those with empty outputs."""
    cost = onnx_cost.cost if graph.is_onnx else aten_cost.cost
    running = [(op, cost(op)) for op in graph.nodes if any(ref.elements for ref in op.outputs)]
    return [(op, c) for op, c in running if c.kind is not Kind.VIEW or not all(map(graph.is_weight, op.inputs))]


def rows_by_node(graph: Graph) -> dict[int, int]:
    """`id` of each node that has a row → the row's index."""
    return {id(node): index for index, (node, _) in enumerate(nodes_with_costs(graph))}


def _last_use(ops: Sequence[Node], graph: Graph) -> dict[int, int]:
    """Storage → index of the last operation that reads it; outputs of the network live to the end."""
    last = {ref.storage: index for index, op in enumerate(ops) for ref in op.inputs}
    return last | {ref.storage: len(ops) for ref in graph.outputs}


def _results(op: Node, index: int, last_use: dict[int, int]) -> list[Tensor]:
    """The outputs that it writes: the first, and others that are read (not the unused indices of a max-pooling)."""
    return [ref for i, ref in enumerate(op.outputs) if i == 0 or last_use.get(ref.storage, -1) > index]


def _live_bytes(ops: Sequence[Node], last_use: dict[int, int], graph: Graph) -> list[int]:
    """Bytes of activations in memory during each operation, if they are freed after their last use."""
    change = [0] * (len(ops) + 2)
    born = {ref.storage: 0 for ref in graph.inputs}
    for index, op in enumerate(ops):
        for ref in _results(op, index, last_use):
            born.setdefault(ref.storage, index)
    for storage, index in born.items():
        if graph.storages[storage].path is None:
            change[index] += graph.storages[storage].nbytes
            change[min(last_use.get(storage, index), len(ops)) + 1] -= graph.storages[storage].nbytes
    return list(accumulate(change[: len(ops)]))


def _unused_rows(graph: Graph, used: set[str | None], start: int) -> Iterator[Row]:
    """Rows of the outermost modules or parameters that are not used, such as heads for training only."""
    sizes = _parameters_within(graph)
    unused = sizes.get("", {}).keys() - {
        identity for module in graph.modules.values() for path, identity, _ in module.parameters if path in used
    }

    def visit(path: str) -> Iterator[tuple[str, str, int]]:
        module, within = graph.modules[path], sizes[path]
        if not unused & within.keys():
            return
        if path and unused >= within.keys():
            yield path, module.type, sum(within.values())
            return
        for name, identity, size in module.parameters:
            if identity in unused:
                yield name, "Parameter", size
        for child in module.children:
            yield from visit(child)

    for index, (path, module_type, parameters) in enumerate(visit("") if unused else (), start):
        yield Row(
            index=index,
            name=path,
            op="-",
            kind=Kind.UNUSED,
            detail="",
            stage=Kind.UNUSED.value,
            block=path,
            module=path,
            module_type=module_type,
            parameters=parameters,
        )


def _parameters_within(graph: Graph) -> dict[str, dict[int, int]]:
    """For each module, ids and sizes of its parameters and of those of its submodules."""
    found: dict[str, dict[int, int]] = {}
    for path in reversed(graph.modules):  # children come after their parent
        module = graph.modules[path]
        found[path] = {identity: size for _, identity, size in module.parameters}
        for child in module.children:
            found[path] |= found[child]
    return found
