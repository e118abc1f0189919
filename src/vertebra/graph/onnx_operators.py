"""How each operation of ATen is written as ONNX: one small function an operation, which gives its result's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vertebra.errors import UsageError

from .ir import Node, Tensor
from .onnx_builder import OnnxBuilder, UnwritableError
from .shapes import spread

WriteNode = Callable[[OnnxBuilder, Node], str]


def _convolution(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    dims = len(a["weight"].shape) - 2
    if a["transposed"]:
        raise UnwritableError(f"{out.where} is a transposed convolution, which cannot be written as ONNX.")
    pads = spread(a["padding"], dims)
    return out.node(
        "Conv",
        *(out.value(a[name]) for name in ("input", "weight", "bias") if a[name] is not None),
        kernel_shape=a["weight"].shape[2:],
        strides=spread(a["stride"], dims),
        pads=[*pads, *pads],
        dilations=spread(a["dilation"], dims),
        group=a["groups"],
    )


def _batch_norm(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    if a["training"] or a["running_mean"] is None:
        # Over a weight, as weight standardisation does it, they are the same for every batch.
        kind = UnwritableError if out.is_weight(a["input"]) else UsageError
        raise kind(f"{out.where} takes its statistics from the batch, which cannot be written as ONNX.")
    channels = op.inputs[0].shape[1]
    affine = [
        out.constant(np.full(channels, default, np.float32)) if a[name] is None else out.value(a[name])
        for name, default in (("weight", 1), ("bias", 0))
    ]
    statistics = [out.value(a[name]) for name in ("running_mean", "running_var")]
    return out.node("BatchNormalization", out.value(a["input"]), *affine, *statistics, epsilon=a["eps"])


def _layer_norm(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    axes = len(a["normalized_shape"])
    weight, bias = (
        out.constant(np.full(a["normalized_shape"], default, np.float32)) if a[name] is None else out.value(a[name])
        for name, default in (("weight", 1), ("bias", 0))
    )
    return out.node("LayerNormalization", out.value(a["input"]), weight, bias, axis=-axes, epsilon=a["eps"])


def _simple(kind: str, **named: str | float) -> WriteNode:
    """An operator of one input; its attributes are numbers, or the names that ATen has for them."""

    def write(out: OnnxBuilder, op: Node) -> str:
        a = op.arguments
        attributes = {key: float(a[value]) if isinstance(value, str) else value for key, value in named.items()}
        return out.node(kind, out.value(op.inputs[0]), **attributes)

    return write


def _silu(out: OnnxBuilder, op: Node) -> str:
    x = out.value(op.inputs[0])
    return out.node("Mul", x, out.node("Sigmoid", x))


def _gelu(out: OnnxBuilder, op: Node) -> str:
    if op.arguments["approximate"] != "none":
        raise UnwritableError(
            f"{out.where} is an approximate GELU, which cannot be written as ONNX. Use the exact one."
        )
    x = out.value(op.inputs[0])
    error = out.node("Erf", out.node("Mul", x, out.value(0.5**0.5)))
    return out.node("Mul", out.node("Mul", x, out.value(0.5)), out.node("Add", error, out.value(1.0)))


def _clip(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    low, high = (a.get(f"{name}_val", a.get(name)) for name in ("min", "max"))
    return out.node("Clip", out.value(op.inputs[0]), *("" if v is None else out.value(v) for v in (low, high)))


def _binary(kind: str) -> WriteNode:
    def write(out: OnnxBuilder, op: Node) -> str:
        a = op.arguments
        if a.get("rounding_mode") is not None:
            raise UnwritableError(f"{out.where} divides and rounds, which cannot be written as ONNX.")
        other = out.value(a["other"])
        if a.get("alpha", 1) != 1:
            other = out.node("Mul", other, out.value(a["alpha"]))
        return out.node(kind, out.value(a["self"]), other)

    return write


def _concat(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    if len(a["tensors"]) == 1:
        return out.value(a["tensors"][0])
    return out.node("Concat", *(out.value(ref) for ref in a["tensors"]), axis=a["dim"])


def _stack(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    axis = a["dim"] % len(op.outputs[0].shape)
    axes = out.constant(np.array([axis], np.int64))
    return out.node("Concat", *(out.node("Unsqueeze", out.value(ref), axes) for ref in a["tensors"]), axis=axis)


def _pad(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    rank = len(op.inputs[0].shape)
    before, after = [0] * rank, [0] * rank
    for i in range(len(a["pad"]) // 2):
        before[-1 - i], after[-1 - i] = a["pad"][2 * i], a["pad"][2 * i + 1]
    pads = out.constant(np.array([*before, *after], np.int64))
    return out.node("Pad", out.value(op.inputs[0]), pads, out.value(a["value"]))


def _pool(kind: str) -> WriteNode:
    def write(out: OnnxBuilder, op: Node) -> str:
        a = op.arguments
        pads = spread(a["padding"], 2)
        attributes = {
            "kernel_shape": spread(a["kernel_size"], 2),
            "strides": spread(a["stride"] or a["kernel_size"], 2),
            "pads": [*pads, *pads],
            "ceil_mode": int(a["ceil_mode"]),
        }
        if kind == "MaxPool":
            attributes["dilations"] = spread(a["dilation"], 2)
        else:
            attributes["count_include_pad"] = int(a["count_include_pad"])
            if a["divisor_override"] is not None:
                raise UnwritableError(f"{out.where} has a divisor_override, which cannot be written as ONNX.")
        return out.node(kind, out.value(op.inputs[0]), **attributes)

    return write


def _adaptive_pool(out: OnnxBuilder, op: Node) -> str:
    before, after = op.inputs[0].shape[2:], op.outputs[0].shape[2:]
    x = out.value(op.inputs[0])
    if before == after:
        return x
    if all(side == 1 for side in after):
        return out.node("GlobalAveragePool", x)
    if any(b % a for b, a in zip(before, after, strict=True)):
        # ONNX has no such pooling. It is linear in rows and in columns: two products with constant matrices.
        rows, columns = (pooling_matrix(b, a) for b, a in zip(before, after, strict=True))
        return out.node("MatMul", out.node("MatMul", out.constant(rows), x), out.constant(columns.T.copy()))
    sides = [b // a for b, a in zip(before, after, strict=True)]
    return out.node("AveragePool", x, kernel_shape=sides, strides=sides)


def pooling_matrix(size: int, wanted: int) -> NDArray[np.float32]:
    """(wanted, size): each row averages the pixels that torch's adaptive pooling does."""
    matrix = np.zeros((wanted, size), np.float32)
    for row in range(wanted):
        start, end = row * size // wanted, -(-(row + 1) * size // wanted)
        matrix[row, start:end] = 1 / (end - start)
    return matrix


def _mean(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    rank = len(op.inputs[0].shape)
    axes = sorted(dim % rank for dim in a["dim"] or range(rank))
    if rank == 4 and axes == [2, 3] and a["keepdim"]:
        return out.node("GlobalAveragePool", out.value(op.inputs[0]))
    return out.node(
        "ReduceMean", out.value(op.inputs[0]), out.constant(np.array(axes, np.int64)), keepdims=int(a["keepdim"])
    )


def _linear(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    if a.get("alpha", 1) != 1 or a.get("beta", 1) != 1:
        raise UnwritableError(f"{out.where} scales a matrix product, which cannot be written as ONNX.")
    one, other = a.get("mat1", a.get("self")), a["mat2"]
    attributes = {}
    if out.is_weight(other):  # as torch keeps it: (out, in)
        offset, *strides = other.layout
        other = replace(other, shape=other.shape[::-1], layout=(offset, *strides[::-1]))
        attributes["transB"] = 1
    operands = [one, other, a["self"]] if "mat1" in a else [one, other]
    return out.node("Gemm", *map(out.value, operands), **attributes)


def _reshape(out: OnnxBuilder, op: Node) -> str:
    before, after = op.inputs[0].shape, op.outputs[0].shape
    x = out.value(op.inputs[0])
    if before == after:
        return x
    if len(after) == 2 and before[0] == after[0]:
        return out.node("Flatten", x, axis=1)
    return out.node("Reshape", x, out.constant(np.array(out.batch(before, after), np.int64)))


def _expand(out: OnnxBuilder, op: Node) -> str:
    before, after = op.inputs[0].shape, op.outputs[0].shape
    x = out.value(op.inputs[0])
    if before == after:
        return x
    before = (*[1] * (len(after) - len(before)), *before)
    # A side that is there already is left as it is by 1.
    sides = [1 if side == was else side for was, side in zip(before, after, strict=True)]
    if out.dynamic and out.batch_size in sides:
        images = out.node("Shape", out.input, start=0, end=1)
        at = sides.index(out.batch_size)
        parts = [out.constant(np.array(part, np.int64)) for part in (sides[:at], sides[at + 1 :])]
        return out.node("Expand", x, out.node("Concat", parts[0], images, parts[1], axis=0))
    return out.node("Expand", x, out.constant(np.array(sides, np.int64)))


def _split(out: OnnxBuilder, op: Node) -> str:
    """Each part is a slice."""
    axis, start, names = op.arguments["dim"], 0, []
    for part in op.outputs:
        end = start + part.shape[axis]
        bounds = [out.constant(np.array([value], np.int64)) for value in (start, end, axis)]
        names.append(out.node("Slice", out.value(op.inputs[0]), *bounds))
        out.values[part] = names[-1]
        start = end
    return names[0]


def _unbind(out: OnnxBuilder, op: Node) -> str:
    x, axis = out.value(op.inputs[0]), op.arguments["dim"]
    for index, part in enumerate(op.outputs):
        out.values[part] = out.node("Gather", x, out.constant(np.int64(index)), axis=axis)
    return out.values[op.outputs[0]]


def _product(out: OnnxBuilder, op: Node) -> str:
    return out.node("MatMul", *(out.value(ref) for ref in (op.arguments["self"], op.arguments["mat2"])))


def _as_strided(out: OnnxBuilder, op: Node) -> str:
    """Only other strides of sides of 1, as torch gives them to what has been averaged; they say nothing."""
    ref = op.outputs[0]
    same = [name for known, name in out.values.items() if _has_values_of(known, ref)]
    if not same:
        raise UnwritableError(f"{out.where} reinterprets its memory (as_strided), which cannot be written as ONNX.")
    return same[-1]


def _has_values_of(one: Tensor, other: Tensor) -> bool:
    """Whether both are the same part of the same memory, in the same order."""

    def read(ref: Tensor) -> tuple[object, ...]:
        offset, *strides = ref.layout
        return offset, *(stride for side, stride in zip(ref.shape, strides, strict=True) if side > 1)

    return one.storage == other.storage and one.shape == other.shape and read(one) == read(other)


def _transpose(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    rank = len(op.inputs[0].shape)
    order = list(range(rank))
    if "dims" in a:
        order = [dim % rank for dim in a["dims"]]
    else:
        one, other = a.get("dim0", 0), a.get("dim1", 1)
        order[one], order[other] = order[other], order[one]
    return out.node("Transpose", out.value(op.inputs[0]), perm=order)


def _slice(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    side = op.inputs[0].shape[a["dim"]]
    start, end = a["start"] or 0, side if a["end"] is None else min(a["end"], side)
    values = [out.constant(np.array([value], np.int64)) for value in (start, end, a["dim"], a["step"])]
    return out.node("Slice", out.value(op.inputs[0]), *values)


def _select(out: OnnxBuilder, op: Node) -> str:
    a = op.arguments
    return out.node("Gather", out.value(op.inputs[0]), out.constant(np.int64(a["index"])), axis=a["dim"])


def _unsqueeze(out: OnnxBuilder, op: Node) -> str:
    axes = out.constant(np.array([op.arguments["dim"]], np.int64))
    return out.node("Unsqueeze", out.value(op.inputs[0]), axes)


def _squeeze(out: OnnxBuilder, op: Node) -> str:
    """Without sides of 1, of those that are named or of all; torch leaves others as they are, which ONNX refuses."""
    shape, dims = op.inputs[0].shape, op.arguments.get("dim")
    named = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    axes = sorted({dim % len(shape) for dim in named if shape[dim] == 1})
    if not axes:
        return _same(out, op)
    return out.node("Squeeze", out.value(op.inputs[0]), out.constant(np.array(axes, np.int64)))


def _along(kind: str) -> WriteNode:
    def write(out: OnnxBuilder, op: Node) -> str:
        return out.node(kind, out.value(op.inputs[0]), axis=op.arguments["dim"])

    return write


def _cast(out: OnnxBuilder, op: Node) -> str:
    from onnx import TensorProto

    if op.inputs[0].dtype == op.outputs[0].dtype:
        return _same(out, op)
    if op.outputs[0].dtype != "float32":
        raise UnwritableError(f"{out.where} computes in torch.{op.outputs[0].dtype}; ONNX is written in float32.")
    return out.node("Cast", out.value(op.inputs[0]), to=TensorProto.FLOAT)


def _same(out: OnnxBuilder, op: Node) -> str:
    return out.value(op.inputs[0])


WRITERS: dict[str, WriteNode] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "relu": _simple("Relu"),
    "sigmoid": _simple("Sigmoid"),
    "tanh": _simple("Tanh"),
    "exp": _simple("Exp"),
    "sqrt": _simple("Sqrt"),
    "neg": _simple("Neg"),
    "leaky_relu": _simple("LeakyRelu", alpha="negative_slope"),
    "elu": _simple("Elu", alpha="alpha"),
    "hardswish": _simple("HardSwish"),
    "hardsigmoid": _simple("HardSigmoid", alpha=1 / 6, beta=0.5),
    "silu": _silu,
    "gelu": _gelu,
    "hardtanh": _clip,
    "clamp": _clip,
    "add": _binary("Add"),
    "sub": _binary("Sub"),
    "mul": _binary("Mul"),
    "div": _binary("Div"),
    "cat": _concat,
    "stack": _stack,
    "constant_pad_nd": _pad,
    "max_pool2d_with_indices": _pool("MaxPool"),
    "avg_pool2d": _pool("AveragePool"),
    "_adaptive_avg_pool2d": _adaptive_pool,
    "mean": _mean,
    "addmm": _linear,
    "mm": _linear,
    "bmm": _product,
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
    "_softmax": _along("Softmax"),
    "_safe_softmax": _along("Softmax"),  # which is another where all of a row is masked; nothing here masks
    "_log_softmax": _along("LogSoftmax"),
    "_to_copy": _cast,
    "clone": _same,
    "alias": _same,
    "detach": _same,
}
