"""One value of each layer with weights, worked out: operands, products, sum, batch norm and activation.

The operands are the network's own, in float32; the page multiplies and adds them in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra.graph.cost import CONVOLUTIONS, Kind

from .encoding import base64_text
from .observation import Observation, Structure
from .options import Options
from .parts import INPUT
from .strongest import strongest_cell
from .weighted_layers import Cell, refusal, weighted_rows
from .worked_steps import at_cell, real, rows_of_chain, step_of
from .worked_trail import trail_to_layer

# Terms of one value that the page holds at most; fewer where all values together take more than BYTES.
CAPS = (4608, 2304, 1728, 1152, 864, 576, 432, 288, 144)
BYTES = 2_000_000  # of operands and weights, as base64


def worked_values(observation: Observation, options: Options) -> dict[str, Any]:
    """By the layer's part: its values that are asked for, then the one that contributes most.

    Of layers whose values cannot be worked out, the reason. Of a stage, the value of its output that contributes most,
    from the layer that it is made in.
    """
    structure = observation.structure
    cells = options.cells(structure)
    found: dict[str, list[tuple[dict[str, Any], _Terms | None]]] = {}
    for row, part in weighted_rows(structure).items():
        values = found.setdefault(part, [])
        if (reason := refusal(structure, row)) is not None:
            values.append(({"refused": reason}, None))
            continue
        chain = rows_of_chain(observation, row)
        strongest = _strongest(observation, row, chain[-1])
        for cell in (*cells.get(row, ()), strongest):
            head = {"layer": structure.rows[row].name, "asked": cell is not strongest}
            values.append((head | _chain(observation, chain, cell), _terms(observation, row, cell)))
    for part, value, terms in _of_stages(observation):
        found[part] = [(value, terms)]
    cap = _cap([terms.operands.shape for values in found.values() for _, terms in values if terms is not None])
    return {
        part: [value if terms is None else value | terms.encode(cap) for value, terms in values]
        for part, values in found.items()
    }


def _of_stages(observation: Observation) -> Iterator[tuple[str, dict[str, Any], _Terms]]:
    structure, layers = observation.structure, weighted_rows(observation.structure)
    for part in structure.parts.values():
        if part.level != "stage" or observation.values.outputs[part.row].ndim != 4:
            continue
        cell = strongest_cell(observation.scores(part.row)[0])
        trail = trail_to_layer(observation, part.row, cell)
        if trail is None or refusal(structure, trail[0]) is not None:
            continue
        row, source, steps = trail
        head = {"layer": structure.rows[row].name, "asked": False, "made_in": layers[row], "output": list(cell)}
        value = _chain(observation, [row], source)
        value["steps"] += steps
        yield part.id, head | value, _terms(observation, row, source)


def _is_map(structure: Structure, row: int) -> bool:
    return structure.rows[row].kind in CONVOLUTIONS


def _strongest(observation: Observation, row: int, last: int) -> Cell:
    """The strongest cell of the layer's last row."""
    scores = observation.scores(last)
    is_product = not _is_map(observation.structure, row) and len(scores) > 1
    return strongest_cell(scores.T if is_product else scores[0])


def _chain(observation: Observation, chain: Sequence[int], cell: Cell) -> dict[str, Any]:
    """Which value it is, and the network's own after the sum and after each norm and activation."""
    is_map = _is_map(observation.structure, chain[0])
    own = [at_cell(observation.values.outputs[row].detach(), cell, is_map) for row in chain]
    steps = [{"op": "sum"}, *filter(None, (step_of(observation, row, cell[0]) for row in chain[1:]))]
    return {
        "cell": list(cell),
        "steps": [
            step | {"row": row, "value": real(value)} for step, row, value in zip(steps, chain, own, strict=True)
        ],
    }


@dataclass(frozen=True)
class _Terms:
    """The factors of one value's sum, each (channels, terms of a channel)."""

    operands: Tensor
    weights: Tensor
    bias: float | None
    details: dict[str, Any]  # where the operands are, for the page

    def encode(self, cap: int) -> dict[str, Any]:
        """For JSON: all channels, or the strongest with at most `cap` terms, and what the others sum to."""
        channels, size = self.operands.shape
        count = max(1, cap // size)
        kept, left_out = torch.arange(channels), None
        if channels > count:
            sums = (self.operands.double() * self.weights.double()).sum(1)
            order = sums.abs().nan_to_num(nan=torch.inf).argsort(descending=True, stable=True)
            kept, rest = order[:count].sort().values, order[count:]
            magnitudes = (self.operands[rest].double() * self.weights[rest].double()).abs()
            left_out = {
                "channels": len(rest),
                "terms": len(rest) * size,
                "sum": real(float(sums[rest].sum())),
                "size": real(float(magnitudes.sum())),
            }
        return self.details | {
            "kept": None if left_out is None else _bits(kept, channels),
            "left_out": left_out,
            "operands": _floats(self.operands[kept]),
            "weights": _floats(self.weights[kept]),
            "bias": None if self.bias is None else real(self.bias),
        }


def _terms(observation: Observation, row: int, cell: Cell) -> _Terms:
    arguments = observation.values.arguments[row]
    with torch.no_grad():
        if _is_map(observation.structure, row):
            return _convolution(observation, row, arguments, cell)
        return _linear(observation, row, arguments, cell)


def _convolution(observation: Observation, row: int, arguments: dict[str, Any], cell: Cell) -> _Terms:
    channel, y, x = cell
    weight, bias = arguments["weight"][channel].detach(), arguments["bias"]
    before, padding = _before_padding(observation, row)
    source = arguments["input"] if before is None else observation.values.arguments[before]["self"]
    first = channel // (arguments["weight"].shape[0] // arguments["groups"]) * weight.shape[0]
    stride, dilation, own_padding = (_pair(arguments[name]) for name in ("stride", "dilation", "padding"))
    corner = [at * step - pad - more for at, step, pad, more in zip((y, x), stride, own_padding, padding, strict=True)]
    patch = torch.zeros_like(weight)
    height, width = source.shape[2:]
    for i in range(weight.shape[1]):
        for j in range(weight.shape[2]):
            at = corner[0] + i * dilation[0], corner[1] + j * dilation[1]
            if 0 <= at[0] < height and 0 <= at[1] < width:
                patch[:, i, j] = source[0, first : first + weight.shape[0], *at].detach()
    reads = observation.structure.rows[row if before is None else before].inputs
    return _Terms(
        patch.flatten(1),
        weight.flatten(1),
        None if bias is None else float(bias[channel]),
        {
            "kind": "convolution",
            "reads": _part_of(observation.structure, reads[0] if reads else None, row),
            "first": first,
            "channels": weight.shape[0],
            "kernel": list(weight.shape[1:]),
            "corner": corner,
            "dilation": list(dilation),
            "size": [height, width],
        },
    )


def _before_padding(observation: Observation, row: int) -> tuple[int | None, tuple[int, int]]:
    """The row that pads a convolution's input with zeros, if one does, and how much above and on the left."""
    rows = observation.structure.rows
    inputs = rows[row].inputs
    if len(inputs) == 1 and inputs[0] >= 0 and observation.structure.nodes[inputs[0]].op == "constant_pad_nd":
        arguments = observation.values.arguments[inputs[0]]
        pad = [*arguments["pad"], 0, 0, 0, 0][:4]  # left, right, top, bottom
        if len(arguments["pad"]) <= 4 and min(pad) >= 0 and not arguments["value"]:
            return inputs[0], (pad[2], pad[0])
    return None, (0, 0)


def _linear(observation: Observation, row: int, arguments: dict[str, Any], cell: Cell) -> _Terms:
    structure = observation.structure
    channel, at = cell[0], cell[1] if len(cell) > 1 else 0
    left, bias = (arguments["mat1"], arguments["self"]) if "mat1" in arguments else (arguments["self"], None)
    operands, weights = left[at].detach(), arguments["mat2"][:, channel].detach()
    # The bias is a vector, or a matrix of one for each row.
    number = None if bias is None else float(bias.expand(len(left), arguments["mat2"].shape[1])[at, channel])
    source = structure.rows[row].inputs[0] if structure.rows[row].inputs else None
    shape: tuple[int, ...] | None = None
    while source is not None and source >= 0 and structure.rows[source].kind is Kind.VIEW:
        shape = tuple(structure.nodes[source].inputs[0].shape)
        source = next(iter(structure.rows[source].inputs), None)
    is_flattened = shape is not None and len(shape) == 4 and shape[0] == 1 and shape[1] < len(operands)
    return _Terms(
        operands[:, None],
        weights[:, None],
        number,
        {
            "kind": "linear",
            "reads": _part_of(structure, source, row),
            "first": 0,
            "channels": len(operands),
            "kernel": [1, 1],
            "flattened": list(shape[1:]) if is_flattened and shape is not None else None,
        },
    )


def _part_of(structure: Structure, row: int | None, reader: int) -> str | None:
    """The layer that a row is in, or the operation where that is the reader's own layer."""
    if row is None:
        return None
    if row < 0:
        return INPUT
    holding = [part for part in structure.parts.values() if part.level in ("layer", "operation") and row in part.rows]
    return next((part.id for part in holding if reader not in part.rows), None)


def _cap(shapes: Sequence[Sequence[int]]) -> int:
    """The most terms of a value with which all values fit into BYTES; the least of CAPS where none does."""

    def total(cap: int) -> float:
        return sum(min(channels, max(1, cap // size)) * size * 8 * 4 / 3 for channels, size in shapes)

    return next((cap for cap in CAPS if total(cap) <= BYTES), CAPS[-1])


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return (values[0], values[-1])


def _floats(values: Tensor) -> str:
    return base64_text(values.contiguous().numpy().astype("<f4").tobytes())


def _bits(indices: Tensor, count: int) -> str:
    """A bit for each of `count` numbers, of a byte the lowest first: whether it is among the indices."""
    mask = np.zeros(count, dtype=bool)
    mask[indices.numpy()] = True
    return base64_text(np.packbits(mask, bitorder="little").tobytes())
