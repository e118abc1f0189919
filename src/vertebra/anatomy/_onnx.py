"""A traced network as an ONNX graph: for timing, with made-up weights, and for predicting, with its own.

`torch.onnx.export` takes 5 to 30 s a network. Here the operations are known from the trace already, which takes tenths
of a second, and each becomes an ONNX operator or two. Batch norms are folded into the convolutions before them. The
graph is opset 18 with IR version 8, which every runtime of the last years reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vertebra.errors import UsageError

from ._ops import arguments
from ._rows import counted
from ._shapes import spread
from ._trace import Op, TensorRef, Trace

OPSET, IR_VERSION = 18, 8  # the latter of the ONNX release that brought opset 18

Array: TypeAlias = NDArray[Any]


class Graph:
    """Collects nodes and weights while the trace is gone through.

    Args:
        trace: what the network did.
        tensors: its parameters and buffers by their paths.
        prefix: of these paths and those of modules, left out in the names of nodes and weights.
        dynamic: the first side of each activation is the batch, of any size.
    """

    def __init__(self, trace: Trace, tensors: Mapping[str, Tensor], *, prefix: str = "", dynamic: bool = False) -> None:
        self.trace = trace
        self.tensors = tensors
        self.prefix = prefix
        self.dynamic = dynamic
        self.op = trace.ops[0]  # that is being written
        self.nodes: list[Any] = []
        self.weights: dict[str, Array] = {}
        self.values: dict[TensorRef, str] = {}  # names of what has been worked out
        self._counts: Counter[str] = Counter()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._changed: set[int] = set()  # storages that were written to in place
        self._views: dict[str, TensorRef] = {}  # how a weight of that name was looked at first

    # --- what writers use -------------------------------------------------------------------------------------------

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; its result's name."""
        from onnx import helper

        name = self.name(kind)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def name(self, kind: str) -> str:
        """`features.0.0` for the layer of that path, `Relu_3` for what has no weights."""
        name = self._short(self.op.module) if kind in ("Conv", "Gemm", "BatchNormalization") else ""
        if not name or self._counts[name]:
            self._counts[kind] += 1
            name = f"{kind}_{self._counts[kind]}"
        self._counts[name] += 1
        return name

    def constant(self, values: Any) -> str:
        """A constant with these values, one for all that are equal."""
        array = np.asarray(values)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self._constants) + 1}"
            self.weights[self._constants[key]] = array
        return self._constants[key]

    def value(self, operand: TensorRef | float) -> str:
        """The name of an activation, of a weight, or of a number that stands in the network's code."""
        if not isinstance(operand, TensorRef):
            return self.constant(np.float32(operand))
        if operand in self.values:
            return self.values[operand]
        path = self.trace.storages[operand.storage].path
        if path is None:
            return self.unknown(operand)
        name = self._short(path)
        if self._views.setdefault(name, operand) != operand:
            return self.constant(self.array(operand))  # another view of it
        self.weights[name] = self.array(operand)
        return name

    def is_weight(self, operand: TensorRef) -> bool:
        """Whether it is known without any input."""
        return operand not in self.values and self.trace.storages[operand.storage].path is not None

    def array(self, ref: TensorRef) -> Array:
        """The values of a parameter, a buffer, or a view of one."""
        tensor = self.tensors[self.trace.storages[ref.storage].path or ""].detach()
        offset, *strides = ref.layout
        found: Array = torch.as_strided(tensor, ref.shape, strides, offset).numpy()
        return found

    def unknown(self, ref: TensorRef) -> str:
        """What to do with a tensor that is neither a weight nor a result."""
        if ref.storage in self._changed:
            raise UsageError(
                f"{self.where} reads what was changed in place through another view of it, which cannot be written as "
                "ONNX. Compute a new tensor instead."
            )
        raise UsageError(
            f"{self.where} uses a tensor of shape {ref.shape} that is no parameter or buffer of the network. Keep it "
            "with register_buffer."
        )

    @property
    def where(self) -> str:
        """The layer that is being written, for errors."""
        path = self._short(self.op.module)
        return f"the layer {path}" if path else "the network's forward()"

    def batch(self, shape: Sequence[int]) -> list[int]:
        """A shape to reshape to; 0 stands for the side that is there already."""
        return [0, *shape[1:]] if self.dynamic and shape else list(shape)

    def _short(self, path: str) -> str:
        return path.removeprefix(self.prefix) if path != self.prefix.rstrip(".") else ""

    # --- from beginning to end --------------------------------------------------------------------------------------

    def write(self, inputs: Sequence[str], outputs: Sequence[str], name: str = "vertebra") -> Any:
        """The onnx.ModelProto, its inputs and outputs so called.

        Raises:
            UsageError: an operation that is not written down here.
        """
        from onnx import TensorProto, helper

        self.values.update(zip(self.trace.inputs, inputs, strict=True))
        self._counts.update([*inputs, *outputs])  # names that are taken
        for op in self.trace.ops:
            self.op = op
            self.operation()
        self._fold_pads()
        self._fold_norms()
        self._call(outputs)
        types = {torch.float32: TensorProto.FLOAT, torch.uint8: TensorProto.UINT8, torch.int64: TensorProto.INT64}

        def described(name: str, ref: TensorRef) -> Any:
            shape: list[str | int | None] = ["N", *ref.shape[1:]] if self.dynamic else list(ref.shape)
            return helper.make_tensor_value_info(name, types[ref.dtype], shape)

        described_inputs, described_outputs = (
            [described(*pair) for pair in zip(names, refs, strict=True)]
            for names, refs in ((inputs, self.trace.inputs), (outputs, self.trace.outputs))
        )
        model = helper.make_model(
            helper.make_graph(self.nodes, name, described_inputs, described_outputs),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="vertebra",
        )
        used = {name for node in self.nodes for name in node.input}
        for key in [key for key in self.weights if key in used]:
            # In place: made beforehand, half a gigabyte of weights would be copied twice more.
            array = self.weights.pop(key)
            tensor = model.graph.initializer.add(
                name=key, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype)
            )
            tensor.raw_data = array.tobytes()
        return model

    def operation(self) -> None:
        """Write the operation of the trace whose turn it is."""
        op = self.op
        if op.is_view and all(map(self.is_weight, op.inputs)):
            return  # `array` follows views
        if all(ref.elements == 0 for ref in op.outputs):
            return  # what batch norm would keep for training
        if op.name not in _WRITERS:
            raise UsageError(
                f"{self.where} uses the operation aten::{op.name}, which cannot be written as ONNX. Known are "
                f"{', '.join(sorted(name for name in _WRITERS if not name.startswith('_')))}. "
                "Replace the layer by what is known."
            )
        result = _WRITERS[op.name](self, op)
        if op.in_place:  # what other views of the same memory held is gone
            self.values = {ref: name for ref, name in self.values.items() if ref.storage != op.outputs[0].storage}
            self._changed.add(op.outputs[0].storage)
        self.values[op.outputs[0]] = result

    def _readers(self) -> Counter[str]:
        """How often each tensor is read, by nodes or as a result."""
        found = Counter(name for node in self.nodes for name in node.input)
        found.update(self.values[ref] for ref in self.trace.outputs if ref in self.values)
        return found

    def _fold_pads(self) -> None:
        """Let convolutions do the padding with zeros before them, which may be unlike on both sides."""
        readers = self._readers()
        makers = {node.output[0]: node for node in self.nodes}
        gone = set()
        for node in self.nodes:
            pad = makers.get(node.input[0]) if node.op_type == "Conv" else None
            if pad is None or pad.op_type != "Pad" or readers[pad.output[0]] > 1 or self.weights[pad.input[2]] != 0:
                continue
            added = self.weights[pad.input[1]]
            rank = len(added) // 2
            if added.min() < 0 or added[:2].any() or added[rank : rank + 2].any():
                continue  # cut off, or channels added
            own = next(attribute for attribute in node.attribute if attribute.name == "pads")
            own.ints[:] = [a + b for a, b in zip(own.ints, [*added[2:rank], *added[rank + 2 :]], strict=True)]
            node.input[0] = pad.input[0]
            gone.add(pad.output[0])
        self.nodes = [node for node in self.nodes if node.output[0] not in gone]

    def _fold_norms(self) -> None:
        """Put batch norms into the convolutions before them, where nothing else reads what these give."""
        readers = self._readers()
        makers = {node.output[0]: node for node in self.nodes}
        renamed: dict[str, str] = {}
        kept = []
        for node in self.nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            conv = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
            alone = conv is not None and conv.op_type == "Conv" and readers[conv.output[0]] == 1
            if conv is None or not alone or conv.input[1] not in self.weights:
                kept.append(node)
                continue
            weight = self.weights[conv.input[1]]
            before = self.weights[conv.input[2]] if len(conv.input) == 3 else 0.0
            gamma, beta, mean, variance = (self.weights[name].astype(np.float64) for name in node.input[1:])
            factor = gamma / np.sqrt(variance + node.attribute[0].f)
            names = [f"{conv.name}.weight", f"{conv.name}.bias"]
            if readers[conv.input[1]] > 1:  # layers that share it may have norms of their own
                names[0] = f"{conv.name}.folded"
            self.weights[names[0]] = (weight * factor.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
            self.weights[names[1]] = ((before - mean) * factor + beta).astype(np.float32)
            conv.input[1:] = names
            renamed[node.output[0]] = conv.output[0]
        self.nodes = kept
        self.values = {ref: renamed.get(name, name) for ref, name in self.values.items()}

    def _call(self, outputs: Sequence[str]) -> None:
        """Give the results of the network their names."""
        from onnx import helper

        made = {node.output[0] for node in self.nodes}
        renamed: dict[str, str] = {}
        for ref, wanted in zip(self.trace.outputs, outputs, strict=True):
            name = self.value(ref)
            if name in made and name not in renamed:
                renamed[name] = wanted
            else:  # an input, a weight, or the same result twice
                self.nodes.append(helper.make_node("Identity", [name], [wanted], name=f"{wanted}.copy"))
        for node in self.nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]


class _Timed(Graph):
    """Nodes named after the rows of the anatomy, weights made up: times do not depend on their values."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace, {})
        self._rows = {id(op): row for row, (op, _) in enumerate(counted(trace))}
        # The same few values serve for every weight: neither zeros nor denormal numbers, which take another time.
        self._noise = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32) * 0.05

    def name(self, kind: str) -> str:
        return f"row{self._rows.get(id(self.op), len(self._rows))}_{len(self.nodes)}"

    def array(self, ref: TensorRef) -> Array:
        variance = (self.trace.storages[ref.storage].path or "").endswith("running_var")
        return np.ones(ref.shape, np.float32) if variance else np.resize(self._noise, ref.shape)

    def unknown(self, ref: TensorRef) -> str:
        return self.constant(np.float32(0.5))

    def operation(self) -> None:
        if id(self.op) in self._rows:
            super().operation()


def for_timing(trace: Trace) -> bytes:
    """The trace as a serialised ONNX model with one float32 input and one output.

    Raises:
        UsageError: an operation that is not written down here.
    """
    if len(trace.inputs) != 1 or len(trace.outputs) != 1 or trace.inputs[0].dtype != torch.float32:
        raise UsageError(
            "timing in ONNX Runtime takes networks with one float32 input and one output. Choose the executor torch."
        )
    try:
        return bytes(_Timed(trace).write(["input"], ["output"], "timing").SerializeToString())
    except UsageError as error:
        raise UsageError(f"{error} Choose the executor torch.") from error


# --- one writer an operation ----------------------------------------------------------------------------------------

Writer = Callable[[Graph, Op], str]


def _convolution(graph: Graph, op: Op) -> str:
    a = arguments(op)
    dims = len(a["weight"].shape) - 2
    if a["transposed"]:
        raise UsageError(f"{graph.where} is a transposed convolution, which cannot be written as ONNX.")
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
        raise UsageError(f"{graph.where} takes its statistics from the batch, which cannot be written as ONNX.")
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
        raise UsageError(f"{graph.where} is an approximate GELU, which cannot be written as ONNX. Use the exact one.")
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
            raise UsageError(f"{graph.where} divides and rounds, which cannot be written as ONNX.")
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
                raise UsageError(f"{graph.where} has a divisor_override, which cannot be written as ONNX.")
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
        raise UsageError(f"{graph.where} scales a matrix product, which cannot be written as ONNX.")
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
    if graph.dynamic and before[0] != after[0]:
        raise UsageError(f"{graph.where} takes the images of a batch together, so its size cannot be free.")
    return graph.node("Reshape", x, graph.constant(np.array(graph.batch(after), np.int64)))


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


def _side(kind: str) -> Writer:
    """A side of one more, or one less."""

    def write(graph: Graph, op: Op) -> str:
        axes = graph.constant(np.array([arguments(op)["dim"]], np.int64))
        return graph.node(kind, graph.value(op.inputs[0]), axes)

    return write


def _along(kind: str) -> Writer:
    def write(graph: Graph, op: Op) -> str:
        return graph.node(kind, graph.value(op.inputs[0]), axis=arguments(op)["dim"])

    return write


def _cast(graph: Graph, op: Op) -> str:
    from onnx import TensorProto

    if op.inputs[0].dtype == op.outputs[0].dtype:
        return _same(graph, op)
    if op.outputs[0].dtype != torch.float32:
        raise UsageError(f"{graph.where} computes in {op.outputs[0].dtype}; ONNX is written in float32.")
    return graph.node("Cast", graph.value(op.inputs[0]), to=TensorProto.FLOAT)


def _same(graph: Graph, op: Op) -> str:
    return graph.value(op.inputs[0])


_WRITERS: dict[str, Writer] = {
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
    "constant_pad_nd": _pad,
    "max_pool2d_with_indices": _pool("MaxPool"),
    "avg_pool2d": _pool("AveragePool"),
    "_adaptive_avg_pool2d": _adaptive_pool,
    "mean": _mean,
    "addmm": _linear,
    "mm": _linear,
    "view": _reshape,
    "_unsafe_view": _reshape,
    "permute": _transpose,
    "transpose": _transpose,
    "t": _transpose,
    "slice": _slice,
    "select": _select,
    "unsqueeze": _side("Unsqueeze"),
    "_softmax": _along("Softmax"),
    "_log_softmax": _along("LogSoftmax"),
    "_to_copy": _cast,
    "clone": _same,
    "alias": _same,
    "detach": _same,
}
