"""How each operation of a trace is written as ONNX: one small function an operation, which gives its result's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from vertebra.errors import UsageError

from .cost import arguments
from .shapes import spread
from .trace import Op, TensorRef

if TYPE_CHECKING:
    from .onnx_writer import Graph


class UnwritableError(UsageError):
    """A network does something that is not written as ONNX here."""


Writer = Callable[["Graph", Op], str]


def _convolution(graph: Graph, op: Op) -> str:
    a = arguments(op)
    dims = len(a["weight"].shape) - 2
    if a["transposed"]:
        raise UnwritableError(f"{graph.where} is a transposed convolution, which cannot be written as ONNX.")
    pads = spread(a["padding"], dims)
    return graph.node(
        "Conv",
        *(graph.value(a[name]) for name in ("input", "weight", "bias") if a[name] is not None),
        kernel_shape=a["weight"].shape[2:],
        strides=spread(a["stride"], dims),
        pads=[*pads, *pads],
        dilations=spread(a["dilation"], dims),
        group=a["groups"],
    )


def _batch_norm(graph: Graph, op: Op) -> str:
    a = arguments(op)
    if a["training"] or a["running_mean"] is None:
        # Over a weight, as weight standardisation does it, they are the same for every batch.
        kind = UnwritableError if graph.is_weight(a["input"]) else UsageError
        raise kind(f"{graph.where} takes its statistics from the batch, which cannot be written as ONNX.")
    channels = op.inputs[0].shape[1]
    affine = [
        graph.constant(np.full(channels, default, np.float32)) if a[name] is None else graph.value(a[name])
        for name, default in (("weight", 1), ("bias", 0))
    ]
    statistics = [graph.value(a[name]) for name in ("running_mean", "running_var")]
    return graph.node("BatchNormalization", graph.value(a["input"]), *affine, *statistics, epsilon=a["eps"])


def _layer_norm(graph: Graph, op: Op) -> str:
    a = arguments(op)
    axes = len(a["normalized_shape"])
    weight, bias = (
        graph.constant(np.full(a["normalized_shape"], default, np.float32)) if a[name] is None else graph.value(a[name])
        for name, default in (("weight", 1), ("bias", 0))
    )
    return graph.node("LayerNormalization", graph.value(a["input"]), weight, bias, axis=-axes, epsilon=a["eps"])


def _simple(kind: str, **named: str | float) -> Writer:
    """An operator of one input; its attributes are numbers, or the names that ATen has for them."""

    def write(graph: Graph, op: Op) -> str:
        a = arguments(op)
        attributes = {key: float(a[value]) if isinstance(value, str) else value for key, value in named.items()}
        return graph.node(kind, graph.value(op.inputs[0]), **attributes)

    return write


def _silu(graph: Graph, op: Op) -> str:
    x = graph.value(op.inputs[0])
    return graph.node("Mul", x, graph.node("Sigmoid", x))


def _gelu(graph: Graph, op: Op) -> str:
    if arguments(op)["approximate"] != "none":
        raise UnwritableError(
            f"{graph.where} is an approximate GELU, which cannot be written as ONNX. Use the exact one."
        )
    x = graph.value(op.inputs[0])
    error = graph.node("Erf", graph.node("Mul", x, graph.value(0.5**0.5)))
    return graph.node("Mul", graph.node("Mul", x, graph.value(0.5)), graph.node("Add", error, graph.value(1.0)))


def _clip(graph: Graph, op: Op) -> str:
    a = arguments(op)
    low, high = (a.get(f"{name}_val", a.get(name)) for name in ("min", "max"))
    return graph.node("Clip", graph.value(op.inputs[0]), *("" if v is None else graph.value(v) for v in (low, high)))


def _binary(kind: str) -> Writer:
    def write(graph: Graph, op: Op) -> str:
        a = arguments(op)
        if a.get("rounding_mode") is not None:
            raise UnwritableError(f"{graph.where} divides and rounds, which cannot be written as ONNX.")
        other = graph.value(a["other"])
        if a.get("alpha", 1) != 1:
            other = graph.node("Mul", other, graph.value(a["alpha"]))
        return graph.node(kind, graph.value(a["self"]), other)

    return write


def _concat(graph: Graph, op: Op) -> str:
    a = arguments(op)
    if len(a["tensors"]) == 1:
        return graph.value(a["tensors"][0])
    return graph.node("Concat", *(graph.value(ref) for ref in a["tensors"]), axis=a["dim"])


def _stack(graph: Graph, op: Op) -> str:
    a = arguments(op)
    axis = a["dim"] % len(op.outputs[0].shape)
    axes = graph.constant(np.array([axis], np.int64))
    return graph.node("Concat", *(graph.node("Unsqueeze", graph.value(ref), axes) for ref in a["tensors"]), axis=axis)


def _pad(graph: Graph, op: Op) -> str:
    a = arguments(op)
    rank = len(op.inputs[0].shape)
    before, after = [0] * rank, [0] * rank
    for i in range(len(a["pad"]) // 2):
        before[-1 - i], after[-1 - i] = a["pad"][2 * i], a["pad"][2 * i + 1]
    pads = graph.constant(np.array([*before, *after], np.int64))
    return graph.node("Pad", graph.value(op.inputs[0]), pads, graph.value(a["value"]))


def _pool(kind: str) -> Writer:
    def write(graph: Graph, op: Op) -> str:
        a = arguments(op)
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
                raise UnwritableError(f"{graph.where} has a divisor_override, which cannot be written as ONNX.")
        return graph.node(kind, graph.value(op.inputs[0]), **attributes)

    return write


def _adaptive_pool(graph: Graph, op: Op) -> str:
    before, after = op.inputs[0].shape[2:], op.outputs[0].shape[2:]
    x = graph.value(op.inputs[0])
    if before == after:
        return x
    if all(side == 1 for side in after):
        return graph.node("GlobalAveragePool", x)
    if any(b % a for b, a in zip(before, after, strict=True)):
        # ONNX has no such pooling. It is linear in rows and in columns: two products with constant matrices.
        rows, columns = (pooling_matrix(b, a) for b, a in zip(before, after, strict=True))
        return graph.node("MatMul", graph.node("MatMul", graph.constant(rows), x), graph.constant(columns.T.copy()))
    sides = [b // a for b, a in zip(before, after, strict=True)]
    return graph.node("AveragePool", x, kernel_shape=sides, strides=sides)


def pooling_matrix(size: int, wanted: int) -> NDArray[np.float32]:
    """(wanted, size): each row averages the pixels that torch's adaptive pooling does."""
    matrix = np.zeros((wanted, size), np.float32)
    for row in range(wanted):
        start, end = row * size // wanted, -(-(row + 1) * size // wanted)
        matrix[row, start:end] = 1 / (end - start)
    return matrix


def _mean(graph: Graph, op: Op) -> str:
    a = arguments(op)
    rank = len(op.inputs[0].shape)
    axes = sorted(dim % rank for dim in a["dim"] or range(rank))
    if rank == 4 and axes == [2, 3] and a["keepdim"]:
        return graph.node("GlobalAveragePool", graph.value(op.inputs[0]))
    return graph.node(
        "ReduceMean", graph.value(op.inputs[0]), graph.constant(np.array(axes, np.int64)), keepdims=int(a["keepdim"])
    )


def _linear(graph: Graph, op: Op) -> str:
    a = arguments(op)
    if a.get("alpha", 1) != 1 or a.get("beta", 1) != 1:
        raise UnwritableError(f"{graph.where} scales a matrix product, which cannot be written as ONNX.")
    one, other = a.get("mat1", a.get("self")), a["mat2"]
    attributes = {}
    if graph.is_weight(other):  # as torch keeps it: (out, in)
        offset, *strides = other.layout
        other = TensorRef(other.storage, other.shape[::-1], other.dtype, other.elements, (offset, *strides[::-1]))
        attributes["transB"] = 1
    operands = [one, other, a["self"]] if "mat1" in a else [one, other]
    return graph.node("Gemm", *map(graph.value, operands), **attributes)


def _reshape(graph: Graph, op: Op) -> str:
    before, after = op.inputs[0].shape, op.outputs[0].shape
    x = graph.value(op.inputs[0])
    if before == after:
        return x
    if len(after) == 2 and before[0] == after[0]:
        return graph.node("Flatten", x, axis=1)
    return graph.node("Reshape", x, graph.constant(np.array(graph.batch(before, after), np.int64)))


def _expand(graph: Graph, op: Op) -> str:
    before, after = op.inputs[0].shape, op.outputs[0].shape
    x = graph.value(op.inputs[0])
    if before == after:
        return x
    before = (*[1] * (len(after) - len(before)), *before)
    # A side that is there already is left as it is by 1.
    sides = [1 if side == was else side for was, side in zip(before, after, strict=True)]
    if graph.dynamic and graph.batch_size in sides:
        images = graph.node("Shape", graph.input, start=0, end=1)
        at = sides.index(graph.batch_size)
        parts = [graph.constant(np.array(part, np.int64)) for part in (sides[:at], sides[at + 1 :])]
        return graph.node("Expand", x, graph.node("Concat", parts[0], images, parts[1], axis=0))
    return graph.node("Expand", x, graph.constant(np.array(sides, np.int64)))


def _split(graph: Graph, op: Op) -> str:
    """Each part is a slice."""
    axis, start, names = arguments(op)["dim"], 0, []
    for part in op.outputs:
        end = start + part.shape[axis]
        bounds = [graph.constant(np.array([value], np.int64)) for value in (start, end, axis)]
        names.append(graph.node("Slice", graph.value(op.inputs[0]), *bounds))
        graph.values[part] = names[-1]
        start = end
    return names[0]


def _unbind(graph: Graph, op: Op) -> str:
    x, axis = graph.value(op.inputs[0]), arguments(op)["dim"]
    for index, part in enumerate(op.outputs):
        graph.values[part] = graph.node("Gather", x, graph.constant(np.int64(index)), axis=axis)
    return graph.values[op.outputs[0]]


def _product(graph: Graph, op: Op) -> str:
    return graph.node("MatMul", *(graph.value(ref) for ref in (op.args[0], op.args[1])))


def _as_strided(graph: Graph, op: Op) -> str:
    """Only other strides of sides of 1, as torch gives them to what has been averaged; they say nothing."""
    ref = op.outputs[0]
    same = [name for known, name in graph.values.items() if _has_values_of(known, ref)]
    if not same:
        raise UnwritableError(f"{graph.where} looks at its memory in another way, which cannot be written as ONNX.")
    return same[-1]


def _has_values_of(one: TensorRef, other: TensorRef) -> bool:
    """Whether both are the same part of the same memory, in the same order."""

    def read(ref: TensorRef) -> tuple[object, ...]:
        offset, *strides = ref.layout
        return offset, *(stride for side, stride in zip(ref.shape, strides, strict=True) if side > 1)

    return one.storage == other.storage and one.shape == other.shape and read(one) == read(other)


def _transpose(graph: Graph, op: Op) -> str:
    a = arguments(op)
    rank = len(op.inputs[0].shape)
    order = list(range(rank))
    if "dims" in a:
        order = [dim % rank for dim in a["dims"]]
    else:
        one, other = a.get("dim0", 0), a.get("dim1", 1)
        order[one], order[other] = order[other], order[one]
    return graph.node("Transpose", graph.value(op.inputs[0]), perm=order)


def _slice(graph: Graph, op: Op) -> str:
    a = arguments(op)
    side = op.inputs[0].shape[a["dim"]]
    start, end = a["start"] or 0, side if a["end"] is None else min(a["end"], side)
    values = [graph.constant(np.array([value], np.int64)) for value in (start, end, a["dim"], a["step"])]
    return graph.node("Slice", graph.value(op.inputs[0]), *values)


def _select(graph: Graph, op: Op) -> str:
    a = arguments(op)
    return graph.node("Gather", graph.value(op.inputs[0]), graph.constant(np.int64(a["index"])), axis=a["dim"])


def _unsqueeze(graph: Graph, op: Op) -> str:
    axes = graph.constant(np.array([arguments(op)["dim"]], np.int64))
    return graph.node("Unsqueeze", graph.value(op.inputs[0]), axes)


def _squeeze(graph: Graph, op: Op) -> str:
    """Without sides of 1, of those that are named or of all; torch leaves others as they are, which ONNX refuses."""
    shape, dims = op.inputs[0].shape, arguments(op).get("dim")
    named = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    axes = sorted({dim % len(shape) for dim in named if shape[dim] == 1})
    if not axes:
        return _same(graph, op)
    return graph.node("Squeeze", graph.value(op.inputs[0]), graph.constant(np.array(axes, np.int64)))


def _along(kind: str) -> Writer:
    def write(graph: Graph, op: Op) -> str:
        return graph.node(kind, graph.value(op.inputs[0]), axis=arguments(op)["dim"])

    return write


def _cast(graph: Graph, op: Op) -> str:
    from onnx import TensorProto

    if op.inputs[0].dtype == op.outputs[0].dtype:
        return _same(graph, op)
    if op.outputs[0].dtype != torch.float32:
        raise UnwritableError(f"{graph.where} computes in {op.outputs[0].dtype}; ONNX is written in float32.")
    return graph.node("Cast", graph.value(op.inputs[0]), to=TensorProto.FLOAT)


def _same(graph: Graph, op: Op) -> str:
    return graph.value(op.inputs[0])


WRITERS: dict[str, Writer] = {
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
