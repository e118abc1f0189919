"""The layers of which a value can be worked out, and the values that are asked for, as LAYER,C,Y,X."""

from __future__ import annotations

from vertebra.errors import UsageError, suggest
from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row

from .observation import Structure
from .page import texts
from .parts import leaves

Cell = tuple[int, ...]  # channel, then row and column where there are


def weighted_rows(structure: Structure) -> dict[int, str]:
    """Index of each convolution's and linear layer's row → id of the layer that it is in."""
    return {index: part for index, part in structure.layer_of_row.items() if _is_weighted(structure, index)}


def _is_weighted(structure: Structure, index: int) -> bool:
    """Whether an operation is a convolution, or a matrix product with a parameter."""
    row, node = structure.rows[index], structure.nodes[index]
    return row.kind in CONVOLUTIONS or (
        row.kind is Kind.MATMUL and any(structure.graph.is_weight(tensor) for tensor in node.inputs)
    )


def refusal(structure: Structure, index: int) -> str | None:
    """Why no value of this convolution or linear layer is worked out, as a key of the texts."""
    row, arguments = structure.rows[index], structure.nodes[index].arguments
    if not structure.nodes[index].outputs[0].is_floating_point:
        return "worked.refused.dtype"
    if row.kind in CONVOLUTIONS:
        if arguments["transposed"]:
            return "worked.refused.transposed"
        return None if len(row.weight_shape or arguments["weight"].shape) == 4 else "worked.refused.dimensions"
    plain = structure.nodes[index].op in ("addmm", "mm") and arguments.get("alpha", 1) == arguments.get("beta", 1) == 1
    return None if plain else "worked.refused.product"


def cell_shape(row: Row) -> tuple[int, ...]:
    """Of the outputs of a weighted row, the channels first: (C, H, W), (C,), or (C, rows)."""
    if row.kind in CONVOLUTIONS:
        return row.output_shape[1:]
    rows, channels = row.output_shape
    return (channels,) if rows == 1 else (channels, rows)


def asked_cell(structure: Structure, text: str) -> tuple[int, Cell]:
    """The row and cell of LAYER,C,Y,X, or LAYER,C of a linear layer.

    Raises:
        UsageError: there is no such layer or no such value.
    """
    layer, *numbers = (field.strip() for field in text.split(","))
    index = _layer(structure, text, layer)
    row = structure.rows[index]
    if (reason := refusal(structure, index)) is not None:
        raise UsageError(f"value {text!r}: {layer!r} is a {row.op}. {texts()['en'][reason]}")
    shape = cell_shape(row)
    axes = ("channel", "row", "column")[: len(shape)]
    form = ",".join(["LAYER", *"CYX"[: len(shape)]])
    example = ",".join([layer, *(str(side // 2) for side in shape)])
    cell = []
    for number in numbers:
        try:
            cell.append(int(number))
        except ValueError:
            raise UsageError(f"value {text!r}: {number!r} is no whole number. Give {form}, such as {example}") from None
    if len(cell) != len(shape):
        kind = "a convolution" if row.kind in CONVOLUTIONS else "a linear layer"
        raise UsageError(
            f"value {text!r}: {len(cell)} number{'s' * (len(cell) != 1)} after the layer; a value of {kind} needs "
            f"{len(shape)} ({', '.join(axes)}). Give {form}, such as {example}"
        )
    for axis, at, side in zip(axes, cell, shape, strict=True):
        if not 0 <= at < side:
            raise UsageError(f"value {text!r}: {axis} {at} of {layer!r} does not exist; it has 0 to {side - 1}.")
    return index, tuple(cell)


def _layer(structure: Structure, text: str, layer: str) -> int:
    """The row that a layer's path, or the id of its part, stands for; or a path around one layer alone."""
    weighted, rows = weighted_rows(structure), structure.rows
    own = leaves(structure.parts)
    names = {index: {rows[index].name, rows[index].module, weighted[index], own[index]} for index in weighted}
    for matches in (
        [index for index in weighted if layer in names[index] - {""}],
        [index for index in weighted if layer and rows[index].name.startswith(f"{layer}.")],
        [index for index in weighted if layer in structure.parts and index in structure.parts[layer].rows],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            paths = [rows[index].name for index in matches]
            raise UsageError(
                f"value {text!r}: {layer!r} has {len(matches)} layers with weights. Name one: "
                + ", ".join(rows[index].name if len(set(paths)) == len(paths) else own[index] for index in matches[:4])
                + ("…" if len(matches) > 4 else "")
            )
    if not weighted:
        raise UsageError(f"value {text!r}: {structure.subject.name} has no convolution and no linear layer.")
    other = next((row for row in rows if layer and layer in (row.name, row.module)), None)
    if other is not None:
        raise UsageError(
            f"value {text!r}: {layer!r} is a {other.op}; values are worked out of convolutions and linear layers, such "
            f"as {rows[_nearest(other.index, weighted)].name!r}."
        )
    known = [rows[index].name for index in weighted]
    hint = suggest(layer, known) or f"It has {', '.join(map(repr, known[:3]))}, …"
    raise UsageError(f"value {text!r}: {structure.subject.name} has no layer {layer!r}. {hint}")


def _nearest(index: int, weighted: dict[int, str]) -> int:
    return min(weighted, key=lambda row: (abs(row - index), row))
