"""The cost of each ATen operator. One that is in no table is counted by its tag, or by torch's formula for FLOPs."""

from __future__ import annotations

import math

from .cost import (
    NORM,
    Cost,
    Counter,
    Kind,
    Window,
    convolution_cost,
    format_sides,
    num_elements,
    per_element,
    pooling_cost,
    reduction_cost,
)
from .ir import Node, Tensor
from .shapes import per_dimension


def cost(op: Node) -> Cost:
    """The cost of one operation."""
    if op.op in _COUNTERS:
        return _COUNTERS[op.op](op)
    if op.is_view or op.op in _NO_WORK or not op.outputs:
        return Cost(op.op, Kind.VIEW)
    if op.op in _COPIES:
        return Cost(_COPIES[op.op], Kind.COPY, is_lookup=op.op in _LOOKUPS)
    if op.op in _REDUCTIONS:
        return Cost(op.op, Kind.POOL, other_ops=_REDUCTIONS[op.op] * _input_size(op))
    if op.is_pointwise:
        return Cost(op.op, Kind.ELEMENTWISE, other_ops=num_elements(op))
    flops = op.flops() if op.flops is not None else None
    return Cost(op.op, Kind.UNKNOWN) if flops is None else Cost(op.op.lstrip("_"), Kind.MATMUL, macs=flops // 2)


def _input_size(op: Node) -> int:
    return math.prod(op.inputs[0].shape) if op.inputs else 0


def _convolution(op: Node) -> Cost:
    a = op.arguments
    dims = len(a["weight"].shape) - 2
    return convolution_cost(
        a["input"].shape,
        a["weight"].shape,
        op.outputs[0].shape,
        stride=tuple(per_dimension(a["stride"], dims)),
        dilation=tuple(per_dimension(a["dilation"], dims)),
        groups=a["groups"],
        transposed=a["transposed"],
        has_bias=a["bias"] is not None,
        padding=tuple(per_dimension(a["padding"], dims)),
    )


WITH_ADDEND = ("addmm", "baddbmm", "addmv", "addbmm")  # add their first operand, `self`, to the product of the others


def _matmul(op: Node) -> Cost:
    refs = [value for value in op.arguments.values() if isinstance(value, Tensor)]
    bias = op.op in WITH_ADDEND or (op.op == "linear" and len(refs) == 3)
    left = refs[0] if op.op == "linear" or not bias else refs[1]
    inner = left.shape[-1]
    # addbmm also sums over the batch, which the output no longer shows.
    outputs = num_elements(op) * (left.shape[0] if op.op == "addbmm" else 1)
    return Cost(
        "linear" if op.op in ("linear", "addmm") else op.op,
        Kind.MATMUL,
        macs=outputs * inner,
        other_ops=num_elements(op) if bias else 0,
        rows=math.prod(left.shape[:-1]) if op.op in ("linear", "addmm", "mm") else None,
    )


def _batch_norm(op: Node) -> Cost:
    a = op.arguments
    training = bool(a.get("training", a.get("train", False)))
    # In inference it is one multiplication and one addition; in training the statistics are computed first.
    return per_element("batch_norm", Kind.NORM, NORM if training else 2)(op)


def _pool(op: Node) -> Cost:
    a = op.arguments
    dims = int(op.op.partition("pool")[2][0])
    kernel = tuple(per_dimension(a["kernel_size"], dims))
    stride = tuple(per_dimension(a["stride"] or a["kernel_size"], dims))
    dilation = tuple(per_dimension(a.get("dilation", 1), dims))
    padding = tuple(per_dimension(a.get("padding", 0), dims))
    return pooling_cost(op.op.removesuffix("_with_indices"), op.outputs[0].shape, kernel, stride, dilation, padding)


def _adaptive_pool(op: Node) -> Cost:
    dims = int(op.op.partition("pool")[2][0])
    before, after = op.inputs[0].shape[-dims:], op.outputs[0].shape[-dims:]
    kernel = tuple(-(-b // a) for b, a in zip(before, after, strict=True))
    stride = tuple(max(b // a, 1) for b, a in zip(before, after, strict=True))
    name = op.op.lstrip("_")
    return Cost(name, Kind.POOL, 0, _input_size(op), f"to {format_sides(after)}", Window(kernel, stride, (1,) * dims))


def _pad(op: Node) -> Cost:
    # The argument names the last dimension first, each with the cells before and after it.
    before = tuple((op.arguments.get("pad") or op.arguments.get("padding") or ())[::2][::-1])
    dims = len(op.outputs[0].shape) - 2
    return Cost("pad", Kind.COPY, padding=((0,) * dims + before)[-dims:] if dims > 0 else ())


def _mean(op: Node) -> Cost:
    shape = op.inputs[0].shape
    return reduction_cost("mean", shape, {dim % len(shape) for dim in op.arguments.get("dim") or range(len(shape))})


def _hardtanh(op: Node) -> Cost:
    a = op.arguments
    return per_element("relu6" if (a["min_val"], a["max_val"]) == (0, 6) else "hardtanh", Kind.ELEMENTWISE, 2)(op)


_COUNTERS: dict[str, Counter] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "cudnn_batch_norm": _batch_norm,
    "native_layer_norm": per_element("layer_norm", Kind.NORM, NORM),
    "native_group_norm": per_element("group_norm", Kind.NORM, NORM),
    "_fused_rms_norm": per_element("rms_norm", Kind.NORM, NORM),
    "mean": _mean,
    "hardtanh": _hardtanh,
}
_COUNTERS |= dict.fromkeys(
    ("mm", "addmm", "bmm", "baddbmm", "addbmm", "linear", "mv", "addmv", "dot", "matmul"), _matmul
)
_COUNTERS |= dict.fromkeys(("constant_pad_nd", "reflection_pad2d", "replication_pad2d"), _pad)
_COUNTERS |= dict.fromkeys((f"max_pool{n}d_with_indices" for n in (2, 3)), _pool)
_COUNTERS |= dict.fromkeys((f"{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)), _pool)
_COUNTERS |= dict.fromkeys(
    (f"{lead}adaptive_{kind}_pool{n}d" for lead in ("", "_") for kind in ("avg", "max") for n in (1, 2, 3)),
    _adaptive_pool,
)

# Name and operations per element; a transcendental function counts as one.
_ELEMENTWISE = {
    "silu": ("silu", 2),
    "hardsigmoid": ("hardsigmoid", 4),
    "hardswish": ("hardswish", 5),
    "gelu": ("gelu", 4),
    "leaky_relu": ("leaky_relu", 2),
    "_prelu_kernel": ("prelu", 2),
    "native_dropout": ("dropout", 2),
    "_softmax": ("softmax", 5),  # maximum, subtract, exp, sum, divide
    "_safe_softmax": ("softmax", 5),
    "_log_softmax": ("softmax", 5),
}
_COUNTERS |= {op: per_element(name, Kind.ELEMENTWISE, operations) for op, (name, operations) in _ELEMENTWISE.items()}
_REDUCTIONS = dict.fromkeys(("sum", "amax", "amin", "max", "min", "prod", "argmax", "cumsum", "any", "all"), 1) | {
    "var_mean": 3,
    "var": 3,
    "std": 3,
    "linalg_vector_norm": 2,
}
# These move bytes and compute nothing.
_COPIES = {
    "cat": "concat",
    "copy": "copy",
    "_to_copy": "cast",
    "index": "index",
    "index_select": "index",
    "upsample_nearest2d": "upsample",
    "upsample_nearest1d": "upsample",
}
_SAME_NAME = "stack clone roll flip repeat embedding gather pixel_shuffle channel_shuffle arange"
_FILLS = "fill zero full zeros ones zeros_like ones_like full_like new_zeros new_ones new_full"
_COPIES |= {name: name for name in _SAME_NAME.split()} | dict.fromkeys(_FILLS.split(), "fill")
_LOOKUPS = frozenset({"embedding", "index", "index_select", "gather"})
_NO_WORK = frozenset({"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "lift_fresh"})
