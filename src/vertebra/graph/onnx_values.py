"""Evaluates the operators by which ONNX files compute shapes, on small integer tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .onnx_reader import Array
from .onnx_shapes import RULES, NodeContext, apply_slice


def _cast(a: NodeContext) -> Array:
    return np.asarray(a.values[0]).astype({1: np.float32, 9: np.bool_, 11: np.float64}.get(a.option("to"), np.int64))


def _fill(a: NodeContext) -> Array:
    value = a.option("value")
    return np.full(a.integers(0) or [], value.values[0] if value is not None else np.float32(0))


def _divide(a: NodeContext) -> Array:
    one, other = np.asarray(a.values[0]), np.asarray(a.values[1])
    whole = np.issubdtype(one.dtype, np.integer)
    return np.asarray((one / other).astype(np.int64) if whole else one / other)


def _reshape(a: NodeContext) -> Array:
    return np.asarray(a.values[0]).reshape(RULES[a.node.kind](a)[0])


def _apply(function: Callable[..., Any]) -> Callable[[NodeContext], Array]:
    return lambda a: np.asarray(function(*a.values))


EVALUATORS: dict[str, Callable[[NodeContext], Array]] = {
    "Add": _apply(np.add),
    "Cast": _cast,
    "Ceil": _apply(np.ceil),
    "Concat": lambda a: np.concatenate([np.atleast_1d(np.asarray(v)) for v in a.values], axis=a.option("axis", 0)),
    "ConstantOfShape": _fill,
    "Div": _divide,
    "Equal": _apply(np.equal),
    "Expand": lambda a: np.broadcast_to(np.asarray(a.values[0]), RULES["Expand"](a)[0]),
    "Floor": _apply(np.floor),
    "Gather": lambda a: np.take(np.asarray(a.values[0]), np.asarray(a.values[1]), axis=a.option("axis", 0)),
    "Greater": _apply(np.greater),
    "Identity": _apply(np.asarray),
    "Less": _apply(np.less),
    "Max": _apply(lambda *values: np.max(np.broadcast_arrays(*values), axis=0)),
    "Min": _apply(lambda *values: np.min(np.broadcast_arrays(*values), axis=0)),
    "Mod": _apply(np.mod),
    "Mul": _apply(np.multiply),
    "Neg": _apply(np.negative),
    "Not": _apply(np.logical_not),
    "Range": _apply(np.arange),
    "ReduceProd": lambda a: np.asarray(np.prod(np.asarray(a.values[0]), keepdims=bool(a.option("keepdims", 1)))),
    "Reshape": _reshape,
    "Shape": lambda a: np.array(a.shapes[0][a.option("start", 0) : a.option("end")], np.int64),
    "Size": lambda a: np.asarray(math.prod(a.shapes[0])),
    "Slice": lambda a: apply_slice(a, np.asarray(a.values[0])),
    "Squeeze": _reshape,
    "Sub": _apply(np.subtract),
    "Unsqueeze": _reshape,
    "Where": _apply(np.where),
}
NEED_SHAPES_ONLY = frozenset({"Shape", "Size"})  # these need the shape of their input, not its values
