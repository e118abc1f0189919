"""Values of the small integer tensors that ONNX files compute shapes from, operator by operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .onnx_reader import Array
from .onnx_shapes import RULES, Application, sliced


def _cast(a: Application) -> Array:
    return np.asarray(a.values[0]).astype({1: np.float32, 9: np.bool_, 11: np.float64}.get(a.option("to"), np.int64))


def _fill(a: Application) -> Array:
    value = a.option("value")
    return np.full(a.integers(0) or [], value.values[0] if value is not None else np.float32(0))


def _division(a: Application) -> Array:
    one, other = np.asarray(a.values[0]), np.asarray(a.values[1])
    whole = np.issubdtype(one.dtype, np.integer)
    return np.asarray((one / other).astype(np.int64) if whole else one / other)


def _reshaped(a: Application) -> Array:
    return np.asarray(a.values[0]).reshape(RULES[a.node.kind](a)[0])


def _by(function: Callable[..., Any]) -> Callable[[Application], Array]:
    return lambda a: np.asarray(function(*a.values))


EVALUATORS: dict[str, Callable[[Application], Array]] = {
    "Add": _by(np.add),
    "Cast": _cast,
    "Ceil": _by(np.ceil),
    "Concat": lambda a: np.concatenate([np.atleast_1d(np.asarray(v)) for v in a.values], axis=a.option("axis", 0)),
    "ConstantOfShape": _fill,
    "Div": _division,
    "Equal": _by(np.equal),
    "Expand": lambda a: np.broadcast_to(np.asarray(a.values[0]), RULES["Expand"](a)[0]),
    "Floor": _by(np.floor),
    "Gather": lambda a: np.take(np.asarray(a.values[0]), np.asarray(a.values[1]), axis=a.option("axis", 0)),
    "Greater": _by(np.greater),
    "Identity": _by(np.asarray),
    "Less": _by(np.less),
    "Max": _by(lambda *values: np.max(np.broadcast_arrays(*values), axis=0)),
    "Min": _by(lambda *values: np.min(np.broadcast_arrays(*values), axis=0)),
    "Mod": _by(np.mod),
    "Mul": _by(np.multiply),
    "Neg": _by(np.negative),
    "Not": _by(np.logical_not),
    "Range": _by(np.arange),
    "ReduceProd": lambda a: np.asarray(np.prod(np.asarray(a.values[0]), keepdims=bool(a.option("keepdims", 1)))),
    "Reshape": _reshaped,
    "Shape": lambda a: np.array(a.shapes[0][a.option("start", 0) : a.option("end")], np.int64),
    "Size": lambda a: np.asarray(math.prod(a.shapes[0])),
    "Slice": lambda a: sliced(a, np.asarray(a.values[0])),
    "Squeeze": _reshaped,
    "Sub": _by(np.subtract),
    "Unsqueeze": _reshaped,
    "Where": _by(np.where),
}
OF_SHAPES_ALONE = frozenset({"Shape", "Size"})  # for these no values need be known
