"""The cost of each ONNX operator.

Elementwise operators and reductions are listed in `onnx_operator_sets`, all others here. The kind of an operator in no
table is `UNKNOWN`: only its memory traffic counts.
"""

from __future__ import annotations

import math

from .cost import NORM, Cost, Counter, Kind, convolution_cost, num_elements, per_element, pooling_cost, reduction_cost
from .ir import Node
from .onnx_operator_sets import BINARY, REDUCTIONS, UNARY


def cost(node: Node) -> Cost:
    """The cost of one operation."""
    if node.op in _COUNTERS:
        return _COUNTERS[node.op](node)
    if node.is_view or not node.outputs:
        return Cost(_name(node.op), Kind.VIEW)
    if node.op in _COPIES:
        return Cost(_COPIES[node.op], Kind.COPY, is_lookup=node.op.startswith("Gather"))
    if node.op in REDUCTIONS:
        return _reduction(node)
    if node.op in UNARY | BINARY or node.op in _OPERATIONS:
        return per_element(_name(node.op), Kind.ELEMENTWISE, _OPERATIONS.get(node.op, 1))(node)
    return Cost(node.op, Kind.UNKNOWN)


def _name(op: str) -> str:
    return op.removeprefix("QLinear").lower()


def _shape(node: Node, position: int) -> tuple[int, ...]:
    tensor = node.operands[position] if position < len(node.operands) else None
    return () if tensor is None else tensor.shape


def _integers(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.arguments.get(name) or default)


def _convolution(weight: int, bias: int, transposed: bool = False) -> Counter:
    def count(node: Node) -> Cost:
        shape = _shape(node, weight)
        ones = (1,) * (len(shape) - 2)
        return convolution_cost(
            _shape(node, 0),
            shape,
            node.outputs[0].shape,
            stride=_integers(node, "strides", ones),
            dilation=_integers(node, "dilations", ones),
            groups=node.arguments.get("group") or 1,
            transposed=transposed,
            has_bias=bool(_shape(node, bias)),
            padding=_integers(node, "pads", ())[: len(ones)],
        )

    return count


def _product(right: int, bias: int | None = None) -> Counter:
    def count(node: Node) -> Cost:
        left = _shape(node, 0)
        inner = left[0 if node.arguments.get("transA") else -1]
        is_linear = any(t is not None and t not in node.inputs[:1] for t in node.operands[1:2])
        return Cost(
            "linear" if bias is not None else "matmul",
            Kind.MATMUL,
            macs=num_elements(node) * inner,
            other_ops=num_elements(node) if bias is not None and _shape(node, bias) else 0,
            rows=math.prod(left[:-1]) if is_linear else None,
        )

    return count


def _pool(name: str) -> Counter:
    def count(node: Node) -> Cost:
        kernel = tuple(node.arguments["kernel_shape"])
        ones = (1,) * len(kernel)
        strides, dilations = _integers(node, "strides", ones), _integers(node, "dilations", ones)
        padding = _integers(node, "pads", ())[: len(kernel)]
        return pooling_cost(f"{name}{len(kernel)}d", node.outputs[0].shape, kernel, strides, dilations, padding)

    return count


def _global_pool(name: str) -> Counter:
    return lambda node: reduction_cost(name, _shape(node, 0), set(range(2, len(_shape(node, 0)))))


def _reduction(node: Node) -> Cost:
    x, out = _shape(node, 0), node.outputs[0].shape
    if len(out) == len(x):
        axes = {i for i, side in enumerate(out) if side == 1 != x[i]}
    else:  # the axes may be an input, so they are found by comparing the shapes
        left = list(out)
        axes = {i for i, side in enumerate(x) if not (left and left[0] == side and left.pop(0))}
    return reduction_cost(node.op.removeprefix("Reduce").lower(), x, axes)


def _recurrent(gates: int) -> Counter:
    def count(node: Node) -> Cost:
        x, (directions, _, hidden) = _shape(node, 0), _shape(node, 2)
        macs = x[0] * x[1] * directions * gates * hidden * (x[2] + hidden)
        return Cost(node.op.lower(), Kind.MATMUL, macs=macs, other_ops=5 * gates * x[0] * x[1] * directions * hidden)

    return count


_COUNTERS: dict[str, Counter] = {
    "AveragePool": _pool("avg_pool"),
    "BatchNormalization": per_element("batch_norm", Kind.NORM, 2),
    "Clip": per_element("clip", Kind.ELEMENTWISE, 2),
    "Conv": _convolution(1, 2),
    "ConvInteger": _convolution(1, 99),
    "ConvTranspose": _convolution(1, 2, transposed=True),
    "FusedConv": _convolution(1, 2),
    "FusedMatMul": _product(1),
    "GRU": _recurrent(3),
    "Gemm": _product(1, 2),
    "GlobalAveragePool": _global_pool("mean"),
    "GlobalMaxPool": _global_pool("global_max_pool"),
    "GroupNormalization": per_element("group_norm", Kind.NORM, NORM),
    "InstanceNormalization": per_element("instance_norm", Kind.NORM, NORM),
    "LSTM": _recurrent(4),
    "LayerNormalization": per_element("layer_norm", Kind.NORM, NORM),
    "LpPool": _pool("lp_pool"),
    "MatMul": _product(1),
    "MatMulInteger": _product(1),
    "MaxPool": _pool("max_pool"),
    "QGemm": _product(3, 6),
    "QLinearConv": _convolution(3, 8),
    "QLinearGlobalAveragePool": _global_pool("mean"),
    "QLinearMatMul": _product(3),
    "RNN": _recurrent(1),
    "SimplifiedLayerNormalization": per_element("rms_norm", Kind.NORM, NORM),
    "SkipLayerNormalization": per_element("layer_norm", Kind.NORM, NORM),
    # How Vertebra's exporter writes one whose sides do not divide evenly: a product with a constant matrix.
    "vertebra::AdaptivePool": per_element("adaptive_avg_pool2d", Kind.POOL, 1),
}
# Operations per element, if not one; a transcendental function counts as one.
_OPERATIONS = {
    "Gelu": 4,
    "HardSigmoid": 4,
    "HardSwish": 5,
    "LRN": 5,
    "LeakyRelu": 2,
    "LogSoftmax": 5,
    "Mish": 3,
    "PRelu": 2,
    "QLinearAdd": 1,
    "QLinearMul": 1,
    "Softmax": 5,
    "Swish": 2,
}
# These move bytes and compute nothing.
_COPIES = {
    "Cast": "cast",
    "Concat": "concat",
    "ConstantOfShape": "fill",
    "DepthToSpace": "pixel_shuffle",
    "Expand": "expand",
    "Gather": "index",
    "GatherElements": "index",
    "Pad": "pad",
    "Resize": "resize",
    "Slice": "slice",
    "SpaceToDepth": "pixel_unshuffle",
    "Split": "split",
    "Tile": "repeat",
    "TopK": "topk",
    "Transpose": "transpose",
    "Upsample": "upsample",
}
