"""The operations of a block as the layers that a figure shows: a convolution with its norm and activation, a gate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row
from vertebra.introspect.joins import find_gates

WEIGHTED = CONVOLUTIONS | {Kind.MATMUL}
_PADDING = "pad"
Readers = Mapping[int, Sequence[int]]  # row → rows that read it


@dataclass(eq=False)
class Layer:
    """Operations that belong together; only the last one is read from outside."""

    rows: list[Row]
    main: Row  # what it is named after
    is_gate: bool = False

    @property
    def is_weighted(self) -> bool:
        """Whether it is a convolution or a matrix product."""
        return self.main.kind in WEIGHTED and not self.is_gate


def find_readers(rows: Sequence[Row]) -> dict[int, list[int]]:
    """For each row the rows that read it; -1 is the network's input."""
    readers: dict[int, list[int]] = {index: [] for index in (-1, *(row.index for row in rows))}
    for row in rows:
        for index in row.inputs:
            readers[index].append(row.index)
    return readers


def gate_members(rows: Sequence[Row], readers: Readers) -> dict[int, list[Row]]:
    """For the product of each gate all its rows: pooling, layers, sigmoid, product.

    A gate whose inner values are read elsewhere, or that does not come from what it multiplies, is left out.
    """
    found: dict[int, list[Row]] = {}
    for gate in find_gates(rows):
        product = gate.product
        gated, factor = sorted(product.inputs)  # the factor is made from what it multiplies
        members, waiting = {product.index}, [factor]
        while waiting:
            index = waiting.pop()
            if index == gated or index in members:
                continue
            if index < gated or not set(readers[index]) <= members:
                break
            members.add(index)
            waiting += rows[index].inputs
        else:
            found[product.index] = [rows[index] for index in sorted(members)]
    return found


def group_layers(
    rows: Sequence[Row], readers: Readers, gates: Mapping[int, Sequence[Row]], is_block: bool
) -> list[Layer]:
    """The layers of one block, or of a stage outside of its blocks, in the order in which they end.

    A norm and an activation belong to the convolution, linear layer or addition before them; in a block that begins
    with a norm (DenseNet, pre-activation) to the convolution after them. Views and poolings that move nothing belong
    to a neighbour, and so does a padding before a convolution or pooling.
    """
    within = {row.index for row in rows}
    in_gate = {
        row.index: product
        for product, members in gates.items()
        if within.issuperset(row.index for row in members)
        for row in members
    }
    norms_first = is_block and _begins_with_norm(rows)
    layers: dict[int, Layer] = {}  # of each row
    for row in rows:
        product = in_gate.get(row.index)
        if product is not None:
            if row.index == product:
                layers |= dict.fromkeys((each.index for each in gates[product]), Layer([*gates[product]], row, True))
            continue
        before = layers.get(row.inputs[0]) if len(row.inputs) == 1 else None
        if before is not None and (
            before.rows[-1].index != row.inputs[0] or readers[row.inputs[0]] != [row.index] or before.is_gate
        ):
            before = None
        if before is not None and _belongs(row, before, norms_first):
            before.rows.append(row)
            if _is_weaker(before.main, row):
                before.main = row
            layers[row.index] = before
        else:
            layers[row.index] = Layer([row], row)
    return sorted(dict.fromkeys(layers.values()), key=lambda layer: layer.rows[-1].index)


def is_addition(row: Row) -> bool:
    """Whether it adds two activations, not a constant."""
    return row.op == "add" and len(row.inputs) > 1


def moves_nothing(row: Row) -> bool:
    """Whether the values stay what they are: a view, or an adaptive pooling to the size that is there."""
    is_same = bool(row.input_shapes) and row.input_shapes[0] == row.output_shape
    return row.kind is Kind.VIEW or (row.op.startswith("adaptive_") and is_same)


def _belongs(row: Row, layer: Layer, norms_first: bool) -> bool:
    if all(map(moves_nothing, layer.rows)):
        return True
    if all(each.op == _PADDING or moves_nothing(each) for each in layer.rows):
        return row.kind in CONVOLUTIONS or row.kind is Kind.POOL
    if moves_nothing(row):
        return True
    is_only_norm = all(each.kind in (Kind.NORM, Kind.ELEMENTWISE, Kind.VIEW) for each in layer.rows)
    if row.kind in WEIGHTED:
        return norms_first and is_only_norm and not is_addition(layer.main)
    if row.kind not in (Kind.NORM, Kind.ELEMENTWISE):
        return False
    if layer.is_weighted:
        return not norms_first
    if is_addition(layer.main):
        return row.kind is Kind.ELEMENTWISE
    return layer.main.kind is Kind.NORM and row.kind is Kind.ELEMENTWISE


def _is_weaker(main: Row, row: Row) -> bool:
    return moves_nothing(main) or main.op == _PADDING or (row.kind in WEIGHTED and main.kind not in WEIGHTED)


def _begins_with_norm(rows: Collection[Row]) -> bool:
    return next((row.kind is Kind.NORM for row in rows if row.kind in WEIGHTED or row.kind is Kind.NORM), False)
