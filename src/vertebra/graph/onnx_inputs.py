"""The input shapes of an ONNX file, with open dimensions filled in."""

from __future__ import annotations

from typing import Any

from vertebra.errors import UsageError

from .onnx_reader import OnnxFile, Sides
from .shapes import Shape


def input_shapes(file: OnnxFile, size: int | tuple[int, int] | None, batch_size: int) -> dict[str, Shape]:
    """The shape of each input, by name. Arguments and errors are those of `profile_file`."""
    pixels = (size, size) if isinstance(size, int) else size
    found: dict[str, Shape] = {}
    named: dict[str, int] = {}  # sizes of named dimensions in earlier inputs
    if not file.inputs:
        raise UsageError(f"{file.path} has no input, so its operations cannot be counted.")
    used = False
    for value in file.inputs:
        if value.shape is None:
            raise UsageError(f"{file.path} does not give the rank of its input {value.name!r}.")
        sides = tuple(named.get(side, side) if isinstance(side, str) else side for side in value.shape)
        if used:  # a further input, such as a state: its open sides are the batch size
            sides = tuple(side if isinstance(side, int) else batch_size for side in sides)
        found[value.name], filled = _fill_open_sides(file, value.name, sides, pixels, batch_size)
        named |= {side: found[value.name][i] for i, side in enumerate(value.shape) if isinstance(side, str)}
        used |= filled
    if pixels is not None and not used:
        images = [shape for shape in found.values() if len(shape) == 4]
        if not any(pixels in (shape[1:3], shape[2:4]) for shape in images):
            given = " and ".join(f"{v.name!r} {_format_sides(v.shape or ())}" for v in file.inputs)
            raise UsageError(
                f"--size is {'x'.join(map(str, pixels))}, and {file.path} fixes the size of its input: {given}. "
                "Leave --size out."
            )
    return found


def _fill_open_sides(
    file: OnnxFile, name: str, shape: Sides, size: tuple[int, int] | None, batch_size: int
) -> tuple[Shape, bool]:
    """A shape without open sides, and whether `size` was used in it."""
    sides: list[Any] = list(shape)
    image = len(sides) == 4
    if len(sides) > 1 and not isinstance(sides[0], int):
        sides[0] = batch_size
    elif image and sides[0] != batch_size and batch_size > 1:
        raise UsageError(
            f"--batch is {batch_size}, and {file.path} fixes it at {sides[0]}: {name!r} {_format_sides(shape)}."
        )
    channels_last = image and sides[3] in (1, 3, 4) and sides[1] not in (1, 3, 4)
    if image and not channels_last and not isinstance(sides[1], int):
        sides[1] = _num_channels(file)
    open_sides = [i for i, side in enumerate(sides) if not isinstance(side, int)]
    if open_sides and (size is None or len(open_sides) > 2):
        what = "the size of its input" if image else "sides of its input"
        raise UsageError(
            f"{file.path} leaves {what} {name!r} open ({_format_sides(shape)}). "
            + (f"Set it: --size {224 if image else 512}, say." if len(open_sides) <= 2 else "--size sets at most two.")
        )
    for i, side in zip(open_sides, (size or ())[-len(open_sides) :], strict=False):
        sides[i] = side
    return tuple(sides), bool(open_sides)


def _num_channels(file: OnnxFile) -> int:
    """Input channels of the first convolution, or 3."""
    for node in file.nodes:
        if node.kind == "Conv" and len(node.inputs) > 1 and node.inputs[1] in file.tensors:
            return file.tensors[node.inputs[1]].shape[1] * int(node.attributes.get("group") or 1)
    return 3


def _format_sides(sides: Sides) -> str:
    return " × ".join("?" if side is None else str(side) for side in sides) or "one number"
