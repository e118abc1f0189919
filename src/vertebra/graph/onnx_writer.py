"""A traced network as an ONNX graph: for timing, with made-up weights, and for predicting, with its own.

`torch.onnx.export` takes 5 to 30 s a network. Here the operations are known from the trace already, which takes tenths
of a second, and each becomes an ONNX operator or two. Batch norms are folded into the convolutions before them. The
graph is opset 18 with IR version 8, which every runtime of the last years reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vertebra.errors import UsageError

from .onnx_operators import WRITERS, UnwritableError
from .rows import counted
from .trace import Op, TensorRef, Trace

OPSET, IR_VERSION = 18, 8  # the latter of the ONNX release that brought opset 18

Array: TypeAlias = NDArray[Any]


class Graph:
    """Collects nodes and weights while the trace is gone through.

    Args:
        trace: what the network did.
        tensors: its parameters and buffers by their paths.
        prefix: of these paths and those of modules, left out in the names of nodes and weights.
        dynamic: the batch may be of any size. A side that is a multiple of the trace's batch is taken to grow with it,
            so that is to be traced with a large prime number of images.
    """

    def __init__(self, trace: Trace, tensors: Mapping[str, Tensor], *, prefix: str = "", dynamic: bool = False) -> None:
        self.trace = trace
        self.tensors = tensors
        self.prefix = prefix
        self.dynamic = dynamic
        self.batch_size = trace.inputs[0].shape[0] if dynamic else 0
        self.input = ""  # the name of the first
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
        # The trace ran on contiguous twins: its layouts say nothing of a weight that is channels-last, transposed,
        # expanded or a part of a larger tensor.
        tensor = self.tensors[self.trace.storages[ref.storage].path or ""].detach().contiguous()
        offset, *strides = ref.layout
        found: Array = torch.as_strided(tensor, ref.shape, strides, tensor.storage_offset() + offset).numpy()
        return found

    def unknown(self, ref: TensorRef) -> str:
        """What to do with a tensor that is neither a weight nor a result."""
        if ref.storage in self._changed:
            raise UnwritableError(
                f"{self.where} reads what was changed in place through another view of it, which cannot be written as "
                "ONNX. Compute a new tensor instead."
            )
        raise UnwritableError(
            f"{self.where} uses a tensor of shape {ref.shape} that is no parameter or buffer of the network. Keep it "
            "with register_buffer."
        )

    @property
    def where(self) -> str:
        """The layer that is being written, for errors."""
        path = self._short(self.op.module)
        return f"the layer {path}" if path else "the network's forward()"

    def batch(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """A shape to reshape to; 0 stands for the side that is there already, -1 for one that follows from the rest.

        Raises:
            UnwritableError: several sides depend on the number of images.
        """
        if not self.dynamic or not after:
            return list(after)
        found = [-1 if side % self.batch_size == 0 else side for side in after]
        if before[0] == after[0] and -1 not in found[1:]:
            return [0, *after[1:]]
        if found.count(-1) != 1:
            raise UnwritableError(f"{self.where} takes the images of a batch together, so its size cannot be free.")
        return found

    def _repeats_weight(self, op: Op) -> bool:
        """Whether a weight is given once for each image, as a class token is."""
        return self.dynamic and op.name == "expand" and self.batch_size in op.outputs[0].shape

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
        self.input = inputs[0]
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
        if op.is_view and all(map(self.is_weight, op.inputs)) and not self._repeats_weight(op):
            return  # `array` follows views
        if all(ref.elements == 0 for ref in op.outputs):
            return  # what batch norm would keep for training
        if op.name not in WRITERS:
            raise UnwritableError(
                f"{self.where} uses the operation aten::{op.name}, which cannot be written as ONNX. Known are "
                f"{', '.join(sorted(name for name in WRITERS if not name.startswith('_')))}. "
                "Replace the layer by what is known."
            )
        result = WRITERS[op.name](self, op)
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
