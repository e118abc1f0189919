"""A traced network as an ONNX graph with made-up weights: for timing in ONNX Runtime, not for predicting.

`torch.onnx.export` takes 10 to 40 s a network. Here the operations are known from the trace already, and their times do
not depend on the weights' values, so the graph is written down in a fraction of a second. It has the same nodes as the
exporter's (batch norms folded into the convolutions before them), each named after its row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from vertebra.errors import UsageError

from ._ops import arguments
from ._rows import counted
from ._shapes import spread
from ._trace import Op, TensorRef, Trace

OPSET, IR_VERSION = 20, 10  # the exporter's


class Graph:
    """Collects nodes and weights while the trace is gone through."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.values: dict[TensorRef, str] = {}  # names of what has been worked out
        self.row = 0
        # The same few values serve for every weight: neither zeros nor denormal numbers, which take another time.
        self._noise = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32) * 0.05

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of this row; its result's name."""
        from onnx import helper

        name = f"row{self.row}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def weight(self, *shape: int) -> str:
        """A weight of that shape."""
        return self.constant(np.resize(self._noise, shape))

    def constant(self, values: Any) -> str:
        """A constant with these values."""
        from onnx import numpy_helper

        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def value(self, operand: TensorRef | float) -> str:
        """The name of an activation, or of a number that stands in the network's code."""
        if isinstance(operand, TensorRef) and operand in self.values:
            return self.values[operand]
        return self.constant(np.float32(0.5 if isinstance(operand, TensorRef) else operand))


Writer = Callable[[Graph, Op], str]


def to_onnx(trace: Trace) -> bytes:
    """The trace as a serialised ONNX model with one float32 input and one output.

    Raises:
        UsageError: an operation that is not written down here.
    """
    from onnx import TensorProto, helper

    if len(trace.inputs) != 1 or len(trace.outputs) != 1 or trace.inputs[0].dtype != torch.float32:
        raise UsageError(
            "timing in ONNX Runtime takes networks with one float32 input and one output. Choose the executor torch."
        )
    graph = Graph()
    graph.values[trace.inputs[0]] = "input"
    kept = [op for op, _ in counted(trace)]
    folded = _folded(kept)
    for graph.row, op in enumerate(kept):
        if graph.row in folded:
            graph.values[op.outputs[0]] = graph.value(op.inputs[0])
            continue
        if op.name not in _WRITERS:
            raise UsageError(
                f"timing in ONNX Runtime does not know the operation {op.name}. Choose the executor torch."
            )
        graph.values[op.outputs[0]] = _WRITERS[op.name](graph, op)
    result = trace.outputs[0]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "timing",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, trace.inputs[0].shape)],
            [helper.make_tensor_value_info(graph.value(result), TensorProto.FLOAT, result.shape)],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    return bytes(model.SerializeToString())


def _folded(ops: Sequence[Op]) -> set[int]:
    """Batch norms whose input is a convolution's result that nobody else reads: the exporter folds them into it."""
    readers = Counter(ref for op in ops for ref in op.inputs)
    convolved = {op.outputs[0] for op in ops if op.name == "convolution"}
    return {
        index
        for index, op in enumerate(ops)
        if op.name == "native_batch_norm" and op.inputs[0] in convolved and readers[op.inputs[0]] == 1
    }


def _convolution(graph: Graph, op: Op) -> str:
    a = arguments(op)
    weight = a["weight"].shape
    dims = len(weight) - 2
    if a["transposed"]:
        raise UsageError("timing in ONNX Runtime does not know transposed convolutions. Choose the executor torch.")
    pads = spread(a["padding"], dims)
    return graph.node(
        "Conv",
        graph.value(a["input"]),
        graph.weight(*weight),
        graph.weight(weight[0]),
        strides=spread(a["stride"], dims),
        pads=[*pads, *pads],
        dilations=spread(a["dilation"], dims),
        group=a["groups"],
    )


def _batch_norm(graph: Graph, op: Op) -> str:
    channels = op.inputs[0].shape[1]
    variance = graph.constant(np.ones(channels, np.float32))
    others = [graph.weight(channels) for _ in range(3)]
    return graph.node("BatchNormalization", graph.value(op.inputs[0]), *others, variance)


def _simple(kind: str) -> Writer:
    def write(graph: Graph, op: Op) -> str:
        return graph.node(kind, graph.value(op.inputs[0]))

    return write


def _silu(graph: Graph, op: Op) -> str:
    x = graph.value(op.inputs[0])
    return graph.node("Mul", x, graph.node("Sigmoid", x))


def _hardtanh(graph: Graph, op: Op) -> str:
    a = arguments(op)
    low, high = graph.constant(np.float32(a["min_val"])), graph.constant(np.float32(a["max_val"]))
    return graph.node("Clip", graph.value(op.inputs[0]), low, high)


def _binary(kind: str) -> Writer:
    def write(graph: Graph, op: Op) -> str:
        a = arguments(op)
        return graph.node(kind, graph.value(a["self"]), graph.value(a["other"]))

    return write


def _concat(graph: Graph, op: Op) -> str:
    a = arguments(op)
    if len(a["tensors"]) == 1:  # the exporter leaves it out
        return graph.value(a["tensors"][0])
    return graph.node("Concat", *(graph.value(ref) for ref in a["tensors"]), axis=a["dim"])


def _pad(graph: Graph, op: Op) -> str:
    a = arguments(op)
    rank = len(op.inputs[0].shape)
    before, after = [0] * rank, [0] * rank
    for i in range(len(a["pad"]) // 2):
        before[-1 - i], after[-1 - i] = a["pad"][2 * i], a["pad"][2 * i + 1]
    return graph.node("Pad", graph.value(op.inputs[0]), graph.constant(np.array([*before, *after], np.int64)))


def _pool(kind: str) -> Writer:
    def write(graph: Graph, op: Op) -> str:
        a = arguments(op)
        pads = spread(a["padding"], 2)
        return graph.node(
            kind,
            graph.value(op.inputs[0]),
            kernel_shape=spread(a["kernel_size"], 2),
            strides=spread(a["stride"] or a["kernel_size"], 2),
            pads=[*pads, *pads],
            ceil_mode=int(a["ceil_mode"]),
        )

    return write


def _adaptive_pool(graph: Graph, op: Op) -> str:
    before, after = op.inputs[0].shape[2:], op.outputs[0].shape[2:]
    x = graph.value(op.inputs[0])
    if any(b % a for b, a in zip(before, after, strict=True)):
        # ONNX has no such pooling; the exported file multiplies by a matrix along each side.
        wide = graph.node("MatMul", x, graph.weight(before[1], after[1]))
        return graph.node("MatMul", graph.weight(after[0], before[0]), wide)
    sides = [b // a for b, a in zip(before, after, strict=True)]
    return graph.node("AveragePool", x, kernel_shape=sides, strides=sides)


def _mean(graph: Graph, op: Op) -> str:
    a = arguments(op)
    axes = graph.constant(np.array([dim % len(op.inputs[0].shape) for dim in a["dim"]], np.int64))
    return graph.node("ReduceMean", graph.value(op.inputs[0]), axes, keepdims=int(a["keepdim"]))


def _linear(graph: Graph, op: Op) -> str:
    outputs, inputs = op.outputs[0].shape[-1], op.inputs[1].shape[-1]
    return graph.node("Gemm", graph.value(op.inputs[1]), graph.weight(outputs, inputs), graph.weight(outputs), transB=1)


def _reshape(graph: Graph, op: Op) -> str:
    return graph.node("Reshape", graph.value(op.inputs[0]), graph.constant(np.array(op.outputs[0].shape, np.int64)))


def _slice(graph: Graph, op: Op) -> str:
    a = arguments(op)
    side = op.inputs[0].shape[a["dim"]]
    start, end = a["start"] or 0, side if a["end"] is None else min(a["end"], side)
    values = [graph.constant(np.array([value], np.int64)) for value in (start, end, a["dim"], a["step"])]
    return graph.node("Slice", graph.value(op.inputs[0]), *values)


_WRITERS: dict[str, Writer] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "relu": _simple("Relu"),
    "sigmoid": _simple("Sigmoid"),
    "silu": _silu,
    "hardtanh": _hardtanh,
    "add": _binary("Add"),
    "mul": _binary("Mul"),
    "cat": _concat,
    "constant_pad_nd": _pad,
    "max_pool2d_with_indices": _pool("MaxPool"),
    "avg_pool2d": _pool("AveragePool"),
    "_adaptive_avg_pool2d": _adaptive_pool,
    "mean": _mean,
    "addmm": _linear,
    "view": _reshape,
    "_unsafe_view": _reshape,
    "slice": _slice,
}
