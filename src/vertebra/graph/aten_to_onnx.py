"""Writes each ATen operation as ONNX: one function per operation, which returns the name of its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vertebra.errors import UsageError

from .aten_to_onnx_layout import LAYOUT_WRITERS
from .ir import Node
from .onnx_builder import Arguments, OnnxBuilder, UnwritableError, WriteNode
from .shapes import per_dimension


def _convolution(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    dims = len(a["weight"].shape) - 2
    if a["transposed"]:
        raise UnwritableError(f"{out.where} is a transposed convolution, which cannot be written as ONNX.")
    pads = per_dimension(a["padding"], dims)
    return out.node(
        "Conv",
        *(out.name_of(a[name]) for name in ("input", "weight", "bias") if a[name] is not None),
        kernel_shape=a["weight"].shape[2:],
        strides=per_dimension(a["stride"], dims),
        pads=[*pads, *pads],
        dilations=per_dimension(a["dilation"], dims),
        group=a["groups"],
    )


def _batch_norm(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    if a["training"] or a["running_mean"] is None:
        # In weight standardisation these are statistics of a weight, the same for every batch.
        kind = UnwritableError if out.is_weight(a["input"]) else UsageError
        raise kind(f"{out.where} computes its statistics from the batch, which cannot be written as ONNX.")
    affine = _scale_and_shift(out, a, op.inputs[0].shape[1:2])
    statistics = [out.name_of(a[name]) for name in ("running_mean", "running_var")]
    return out.node("BatchNormalization", out.name_of(a["input"]), *affine, *statistics, epsilon=a["eps"])


def _layer_norm(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    affine, axis = _scale_and_shift(out, a, a["normalized_shape"]), -len(a["normalized_shape"])
    return out.node("LayerNormalization", out.name_of(a["input"]), *affine, axis=axis, epsilon=a["eps"])


def _scale_and_shift(out: OnnxBuilder, a: Arguments, shape: Sequence[int]) -> list[str]:
    """Scale and shift of a norm; 1 and 0 by default."""
    return [
        out.constant(np.full(shape, default, np.float32)) if a[name] is None else out.name_of(a[name])
        for name, default in (("weight", 1), ("bias", 0))
    ]


def _unary(kind: str, **named: str | float) -> WriteNode:
    """A writer for an operator of one input. Its attributes are numbers, or names of ATen's arguments."""

    def write(out: OnnxBuilder, op: Node, a: Arguments) -> str:
        attributes = {key: float(a[value]) if isinstance(value, str) else value for key, value in named.items()}
        return out.node(kind, out.name_of(op.inputs[0]), **attributes)

    return write


def _silu(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    x = out.name_of(op.inputs[0])
    return out.node("Mul", x, out.node("Sigmoid", x))


def _gelu(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    if a["approximate"] != "none":
        raise UnwritableError(
            f"{out.where} is an approximate GELU, which cannot be written as ONNX. Use the exact one."
        )
    x = out.name_of(op.inputs[0])
    error = out.node("Erf", out.node("Mul", x, out.name_of(0.5**0.5)))
    return out.node("Mul", out.node("Mul", x, out.name_of(0.5)), out.node("Add", error, out.name_of(1.0)))


def _clip(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    low, high = (a.get(f"{name}_val", a.get(name)) for name in ("min", "max"))
    return out.node("Clip", out.name_of(op.inputs[0]), *("" if v is None else out.name_of(v) for v in (low, high)))


def _binary(kind: str) -> WriteNode:
    def write(out: OnnxBuilder, op: Node, a: Arguments) -> str:
        if a.get("rounding_mode") is not None:
            raise UnwritableError(f"{out.where} divides and rounds, which cannot be written as ONNX.")
        other = out.name_of(a["other"])
        if a.get("alpha", 1) != 1:
            other = out.node("Mul", other, out.name_of(a["alpha"]))
        return out.node(kind, out.name_of(a["self"]), other)

    return write


def _pool(kind: str) -> WriteNode:
    def write(out: OnnxBuilder, op: Node, a: Arguments) -> str:
        pads = per_dimension(a["padding"], 2)
        attributes = {
            "kernel_shape": per_dimension(a["kernel_size"], 2),
            "strides": per_dimension(a["stride"] or a["kernel_size"], 2),
            "pads": [*pads, *pads],
            "ceil_mode": int(a["ceil_mode"]),
        }
        if kind == "MaxPool":
            attributes["dilations"] = per_dimension(a["dilation"], 2)
        else:
            attributes["count_include_pad"] = int(a["count_include_pad"])
            if a["divisor_override"] is not None:
                raise UnwritableError(f"{out.where} has a divisor_override, which cannot be written as ONNX.")
        return out.node(kind, out.name_of(op.inputs[0]), **attributes)

    return write


def _adaptive_pool(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    before, after = op.inputs[0].shape[2:], op.outputs[0].shape[2:]
    x = out.name_of(op.inputs[0])
    if before == after:
        return x
    if all(side == 1 for side in after):
        return out.node("GlobalAveragePool", x)
    if any(b % a for b, a in zip(before, after, strict=True)):
        # ONNX has no such pooling, but it is linear in rows and columns: two products with constant matrices.
        rows, columns = (pooling_matrix(b, a) for b, a in zip(before, after, strict=True))
        return out.node("MatMul", out.node("MatMul", out.constant(rows), x), out.constant(columns.T.copy()))
    sides = [b // a for b, a in zip(before, after, strict=True)]
    return out.node("AveragePool", x, kernel_shape=sides, strides=sides)


def pooling_matrix(size: int, out_size: int) -> NDArray[np.float32]:
    """(out_size, size): each row averages the pixels that torch's adaptive pooling averages."""
    matrix = np.zeros((out_size, size), np.float32)
    for row in range(out_size):
        start, end = row * size // out_size, -(-(row + 1) * size // out_size)
        matrix[row, start:end] = 1 / (end - start)
    return matrix


def _mean(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    rank = len(op.inputs[0].shape)
    axes = sorted(dim % rank for dim in a["dim"] or range(rank))
    if rank == 4 and axes == [2, 3] and a["keepdim"]:
        return out.node("GlobalAveragePool", out.name_of(op.inputs[0]))
    return out.node("ReduceMean", out.name_of(op.inputs[0]), out.integers(*axes), keepdims=int(a["keepdim"]))


def _linear(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    if a.get("alpha", 1) != 1 or a.get("beta", 1) != 1:
        raise UnwritableError(f"{out.where} scales a matrix product, which cannot be written as ONNX.")
    one, other = a.get("mat1", a.get("self")), a["mat2"]
    attributes = {}
    if out.is_weight(other):  # torch stores it as (out, in)
        offset, *strides = other.layout
        other = replace(other, shape=other.shape[::-1], layout=(offset, *strides[::-1]))
        attributes["transB"] = 1
    operands = [one, other, a["self"]] if "mat1" in a else [one, other]
    return out.node("Gemm", *map(out.name_of, operands), **attributes)


def _product(out: OnnxBuilder, op: Node, a: Arguments) -> str:
    return out.node("MatMul", out.name_of(a["self"]), out.name_of(a["mat2"]))


def _with_axis(kind: str) -> WriteNode:
    def write(out: OnnxBuilder, op: Node, a: Arguments) -> str:
        return out.node(kind, out.name_of(op.inputs[0]), axis=a["dim"])

    return write


WRITERS: dict[str, WriteNode] = LAYOUT_WRITERS | {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "relu": _unary("Relu"),
    "sigmoid": _unary("Sigmoid"),
    "tanh": _unary("Tanh"),
    "exp": _unary("Exp"),
    "sqrt": _unary("Sqrt"),
    "neg": _unary("Neg"),
    "leaky_relu": _unary("LeakyRelu", alpha="negative_slope"),
    "elu": _unary("Elu", alpha="alpha"),
    "hardswish": _unary("HardSwish"),
    "hardsigmoid": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "silu": _silu,
    "gelu": _gelu,
    "hardtanh": _clip,
    "clamp": _clip,
    "add": _binary("Add"),
    "sub": _binary("Sub"),
    "mul": _binary("Mul"),
    "div": _binary("Div"),
    "max_pool2d_with_indices": _pool("MaxPool"),
    "avg_pool2d": _pool("AveragePool"),
    "_adaptive_avg_pool2d": _adaptive_pool,
    "mean": _mean,
    "addmm": _linear,
    "mm": _linear,
    "bmm": _product,
    "_softmax": _with_axis("Softmax"),
    "_safe_softmax": _with_axis("Softmax"),  # it differs only in rows that are all masked, and nothing here masks
    "_log_softmax": _with_axis("LogSoftmax"),
}
