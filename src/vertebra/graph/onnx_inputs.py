"""The sizes of an ONNX file's inputs, with what the file leaves open filled in."""

from __future__ import annotations

from typing import Any

from vertebra.errors import UsageError

from .onnx_reader import OnnxFile, Sides
from .shapes import Shape


def input_shapes(file: OnnxFile, size: int | tuple[int, int] | None, batch_size: int) -> dict[str, Shape]:
    """By name. Arguments and errors are those of `profile_file`."""
    pixels = (size, size) if isinstance(size, int) else size
    found: dict[str, Shape] = {}
    named: dict[str, int] = {}  # what a side with a name is in the inputs before
    if not file.inputs:
        raise UsageError(f"{file.path} has no input, so there is nothing to count.")
    used = False
    for value in file.inputs:
        if value.shape is None:
            raise UsageError(f"{file.path} does not say how many sides its input {value.name!r} has.")
        sides = tuple(named.get(side, side) if isinstance(side, str) else side for side in value.shape)
        if used:  # of further inputs: states of one image or sequence
            sides = tuple(side if isinstance(side, int) else batch_size for side in sides)
        found[value.name], filled = _filled(file, value.name, sides, pixels, batch_size)
        named |= {side: found[value.name][i] for i, side in enumerate(value.shape) if isinstance(side, str)}
        used |= filled
    if pixels is not None and not used:
        images = [shape for shape in found.values() if len(shape) == 4]
        if not any(pixels in (shape[1:3], shape[2:4]) for shape in images):
            given = " and ".join(f"{v.name!r} {_words(v.shape or ())}" for v in file.inputs)
            raise UsageError(
                f"--size is {'x'.join(map(str, pixels))}, and {file.path} fixes the size of its input: {given}. "
                "Leave --size out."
            )
    return found


def _filled(
    file: OnnxFile, name: str, shape: Sides, size: tuple[int, int] | None, batch_size: int
) -> tuple[Shape, bool]:
    """A shape without open sides, and whether `size` went into it."""
    sides: list[Any] = list(shape)
    image = len(sides) == 4
    if len(sides) > 1 and not isinstance(sides[0], int):
        sides[0] = batch_size
    elif image and sides[0] != batch_size and batch_size > 1:
        raise UsageError(
            f"--batch is {batch_size}, and {file.path} takes {sides[0]} at a time: {name!r} {_words(shape)}."
        )
    last = image and sides[3] in (1, 3, 4) and sides[1] not in (1, 3, 4)  # is it (N, H, W, C)?
    if image and not last and not isinstance(sides[1], int):
        sides[1] = _channels(file)
    opened = [place for place, side in enumerate(sides) if not isinstance(side, int)]
    if opened and (size is None or len(opened) > 2):
        what = "the size of its input" if image else "sides of its input"
        raise UsageError(
            f"{file.path} leaves {what} {name!r} open ({_words(shape)}). "
            + (f"Give it, such as --size {224 if image else 512}." if len(opened) <= 2 else "--size gives at most two.")
        )
    for place, side in zip(opened, (size or ())[-len(opened) :], strict=False):
        sides[place] = side
    return tuple(sides), bool(opened)


def _channels(file: OnnxFile) -> int:
    """What the first convolution takes; images have three."""
    for node in file.nodes:
        if node.kind == "Conv" and len(node.inputs) > 1 and node.inputs[1] in file.tensors:
            return file.tensors[node.inputs[1]].shape[1] * int(node.attributes.get("group") or 1)
    return 3


def _words(sides: Sides) -> str:
    return " × ".join("?" if side is None else str(side) for side in sides) or "one number"
