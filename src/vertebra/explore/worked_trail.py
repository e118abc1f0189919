"""From a cell of a stage's output back to the layer that made it: additions, concatenations, pooling, activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from vertebra.graph.cost import CONVOLUTIONS
from vertebra.graph.shapes import per_dimension

from .observation import Observation
from .weighted_layers import Cell
from .worked_steps import at_cell, real, step_of

LONGEST = 12  # steps between a layer and the output
Trail = tuple[int, Cell, list[dict[str, Any]]]


def trail_to_layer(observation: Observation, row: int, cell: Cell, longest: int = LONGEST) -> Trail | None:
    """The convolution behind a value of maps, the cell of its output, and the steps from there, in their order.

    Of an addition or product the operand with the fewest steps is followed, then the one of the larger magnitude; the
    other is a number. None: no convolution is behind it, or only by other operations.
    """
    if row < 0 or longest < 0 or observation.values.outputs[row].ndim != 4:
        return None
    if observation.structure.rows[row].kind in CONVOLUTIONS:
        return row, cell, []
    value = real(at_cell(observation.values.outputs[row].detach(), cell, is_map=True))
    found: Trail | None = None
    # Those with few steps come first, so that what is beyond need not be looked for.
    for source, at, step in _sources(observation, row, cell):
        most = longest - 1 if found is None else min(longest - 1, len(found[2]) - 2)
        before = trail_to_layer(observation, source, at, most)
        if before is not None:
            found = before[0], before[1], [*before[2], step | {"row": row, "value": value}]
    return found


def _sources(observation: Observation, row: int, cell: Cell) -> Iterator[tuple[int, Cell, dict[str, Any]]]:
    """The rows that a value is made from: row, cell there, and the step from there."""
    inputs, op = observation.structure.rows[row].inputs, observation.structure.nodes[row].op
    arguments = observation.values.arguments[row]
    if len(inputs) == 1 and (step := step_of(observation, row, cell[0])) is not None:
        yield inputs[0], cell, step
    elif op in ("add", "mul") and len(inputs) == 2 and arguments.get("alpha", 1) == 1:
        operands = arguments["self"], arguments["other"]
        numbers = [at_cell(each.detach(), _within(each, cell), is_map=True) for each in operands if each.ndim == 4]
        if len(numbers) == 2:
            for followed in sorted((0, 1), key=lambda index: -abs(numbers[index])):
                step = {"op": {"add": "add", "mul": "multiply"}[op], "other": real(numbers[1 - followed])}
                yield inputs[followed], _within(operands[followed], cell), step
    elif op == "cat" and len(inputs) == len(arguments["tensors"]) and arguments["dim"] in (1, -3):
        channel = cell[0]
        for source, tensor in zip(inputs, arguments["tensors"], strict=True):
            if channel < tensor.shape[1]:
                yield source, (channel, *cell[1:]), {"op": "concat", "channel": cell[0]}
                return
            channel -= tensor.shape[1]
    elif op == "max_pool2d_with_indices" and len(inputs) == 1:
        yield inputs[0], _largest(arguments, cell), {"op": "max_pool"}


def _within(tensor: Tensor, cell: Cell) -> Cell:
    """The cell of a tensor that is broadcast, as a gate of 1 × 1."""
    channel, *position = cell
    return (channel, *(min(at, side - 1) for at, side in zip(position, tensor.shape[2:], strict=True)))


def _largest(arguments: dict[str, Any], cell: Cell) -> Cell:
    """The cell with the largest value in the window of a max-pooling."""
    channel, *position = cell
    maps = arguments["self"][0, channel].detach()
    windows = [per_dimension(arguments[name] or arguments["kernel_size"], 2) for name in ("kernel_size", "stride")] + [
        per_dimension(arguments[name], 2) for name in ("padding", "dilation")
    ]
    axes = []
    for axis, (at, kernel, stride, padding, dilation) in enumerate(zip(position, *windows, strict=True)):
        window = (at * stride - padding + step * dilation for step in range(kernel))
        axes.append([each for each in window if 0 <= each < maps.shape[axis]])
    y, x = max(((y, x) for y in axes[0] for x in axes[1]), key=lambda each: float(maps[each]))
    return (channel, y, x)
