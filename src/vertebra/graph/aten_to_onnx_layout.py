"""Writes ATen operations that only move, join or slice tensors as ONNX."""

from __future__ import annotations

import numpy as np

from .ir import Node, Tensor
from .onnx_builder import Arguments, OnnxBuilder, UnwritableError, WriteNode


def _concat(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    if len(a["tensors"]) == 1:
        return out.name_of(a["tensors"][0])
    return out.node("Concat", *(out.name_of(ref) for ref in a["tensors"]), axis=a["dim"])


def _stack(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    axis = a["dim"] % len(op.outputs[0].shape)
    axes = out.integers(axis)
    return out.node("Concat", *(out.node("Unsqueeze", out.name_of(ref), axes) for ref in a["tensors"]), axis=axis)


def _pad(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    rank = len(op.inputs[0].shape)
    before, after = [0] * rank, [0] * rank
    for i in range(len(a["pad"]) // 2):
        before[-1 - i], after[-1 - i] = a["pad"][2 * i], a["pad"][2 * i + 1]
    pads = out.integers(*before, *after)
    return out.node("Pad", out.name_of(op.inputs[0]), pads, out.name_of(a["value"]))


def _reshape(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    before, after = op.inputs[0].shape, op.outputs[0].shape
    x = out.name_of(op.inputs[0])
    if before == after:
        return x
    if len(after) == 2 and before[0] == after[0]:
        return out.node("Flatten", x, axis=1)
    return out.node("Reshape", x, out.integers(*out.reshape_target(before, after)))


def _expand(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    before, after = op.inputs[0].shape, op.outputs[0].shape
    x = out.name_of(op.inputs[0])
    if before == after:
        return x
    before = (*[1] * (len(after) - len(before)), *before)
    # ONNX keeps a side whose new size is 1.
    sides = [1 if side == was else side for was, side in zip(before, after, strict=True)]
    if out.dynamic and out.batch_size in sides:
        images = out.node("Shape", out.input, start=0, end=1)
        at = sides.index(out.batch_size)
        front, back = out.integers(*sides[:at]), out.integers(*sides[at + 1 :])
        return out.node("Expand", x, out.node("Concat", front, images, back, axis=0))
    return out.node("Expand", x, out.integers(*sides))


def _split(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    start = 0
    for part in op.outputs:
        end = start + part.shape[a["dim"]]
        bounds = [out.integers(bound) for bound in (start, end, a["dim"])]
        out.values[part] = out.node("Slice", out.name_of(op.inputs[0]), *bounds)
        start = end
    return out.values[op.outputs[0]]


def _unbind(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    x = out.name_of(op.inputs[0])
    for index, part in enumerate(op.outputs):
        out.values[part] = out.node("Gather", x, out.constant(np.int64(index)), axis=a["dim"])
    return out.values[op.outputs[0]]


def _as_strided(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    """Accept new strides of sides of 1 alone, as torch makes them after a mean: they do not move data."""
    if _memory_order(op.inputs[0]) != _memory_order(op.outputs[0]):
        raise UnwritableError(f"{out.where} reinterprets its memory (as_strided), which cannot be written as ONNX.")
    return _identity(out, op, a)


def _memory_order(ref: Tensor) -> tuple[object, ...]:
    """Shape, offset, and the strides of sides above 1."""
    offset, *strides = ref.layout
    return ref.shape, offset, *(stride for side, stride in zip(ref.shape, strides, strict=True) if side > 1)


def _transpose(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    rank = len(op.inputs[0].shape)
    order = list(range(rank))
    if "dims" in a:
        order = [dim % rank for dim in a["dims"]]
    else:
        one, other = a.get("dim0", 0), a.get("dim1", 1)
        order[one], order[other] = order[other], order[one]
    return out.node("Transpose", out.name_of(op.inputs[0]), perm=order)


def _slice(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    side = op.inputs[0].shape[a["dim"]]
    start, end = a["start"] or 0, side if a["end"] is None else min(a["end"], side)
    bounds = [out.integers(bound) for bound in (start, end, a["dim"], a["step"])]
    return out.node("Slice", out.name_of(op.inputs[0]), *bounds)


def _select(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    return out.node("Gather", out.name_of(op.inputs[0]), out.constant(np.int64(a["index"])), axis=a["dim"])


def _unsqueeze(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    axes = out.integers(a["dim"])
    return out.node("Unsqueeze", out.name_of(op.inputs[0]), axes)


def _squeeze(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    """Squeeze the dims whose size is 1: torch ignores others, and ONNX refuses them."""
    shape, dims = op.inputs[0].shape, a.get("dim")
    named = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    axes = sorted({dim % len(shape) for dim in named if shape[dim] == 1})
    if not axes:
        return _identity(out, op, a)
    return out.node("Squeeze", out.name_of(op.inputs[0]), out.integers(*axes))


def _cast(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    from onnx import TensorProto

    if op.inputs[0].dtype == op.outputs[0].dtype:
        return _identity(out, op, a)
    if op.outputs[0].dtype != "float32":
        raise UnwritableError(f"{out.where} computes in torch.{op.outputs[0].dtype}; Vertebra writes ONNX in float32.")
    return out.node("Cast", out.name_of(op.inputs[0]), to=TensorProto.FLOAT)


def _identity(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    return out.name_of(op.inputs[0])


LAYOUT_WRITERS: dict[str, WriteNode] = {
    "cat": _concat,
    "stack": _stack,
    "constant_pad_nd": _pad,
    "view": _reshape,
    "_unsafe_view": _reshape,
    "permute": _transpose,
    "transpose": _transpose,
    "t": _transpose,
    "expand": _expand,
    "as_strided": _as_strided,
    "split": _split,
    "unbind": _unbind,
    "slice": _slice,
    "select": _select,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "_to_copy": _cast,
    "clone": _identity,
    "alias": _identity,
    "detach": _identity,
}
