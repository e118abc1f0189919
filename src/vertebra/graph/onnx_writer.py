"""Writes a traced network as an ONNX model: with its own weights, or with random ones for timing.

`torch.onnx.export` takes 5 to 30 s per network. A trace takes tenths of a second, and each of its operations becomes
one or two ONNX operators (`aten_to_onnx`). Batch norms are folded into the convolutions before them
(`fold_batch_norm`). Opset 18 and IR version 8 are read by every runtime of recent years.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vertebra.errors import UsageError

from .aten_to_onnx import WRITERS
from .fold_batch_norm import fold_batch_norms
from .ir import Graph, Tensor
from .onnx_builder import Array, OnnxBuilder, UnwritableError
from .rows import rows_by_node

OPSET, IR_VERSION = 18, 8  # the latter of the ONNX release that brought opset 18


class OnnxWriter(OnnxBuilder):
    """Writes a graph of ATen's operations as an ONNX model."""

    def write(self, inputs: Sequence[str], outputs: Sequence[str], name: str = "vertebra") -> Any:
        """The onnx.ModelProto, with these names of its inputs and outputs."""
        from onnx import TensorProto, helper

        self.values.update(zip(self.graph.inputs, inputs, strict=True))
        self.input = inputs[0]
        self._counts.update([*inputs, *outputs])  # names that are taken
        for op in self.graph.nodes:
            self.op = op
            self.write_node()
        self._fold_padding()
        self.nodes, renamed = fold_batch_norms(self.nodes, self.weights, self._num_readers())
        self.values = {ref: renamed.get(name, name) for ref, name in self.values.items()}
        self._name_outputs(outputs)
        types = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}

        def value_info(name: str, ref: Tensor) -> Any:
            shape: list[str | int | None] = ["N", *ref.shape[1:]] if self.dynamic else list(ref.shape)
            return helper.make_tensor_value_info(name, types[ref.dtype], shape)

        input_infos, output_infos = (
            [value_info(*pair) for pair in zip(names, refs, strict=True)]
            for names, refs in ((inputs, self.graph.inputs), (outputs, self.graph.outputs))
        )
        model = helper.make_model(
            helper.make_graph(self.nodes, name, input_infos, output_infos),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="vertebra",
        )
        used = {name for node in self.nodes for name in node.input}
        for key in [key for key in self.weights if key in used]:
            # Written in place: passing tensors to make_graph would copy half a gigabyte of weights twice more.
            array = self.weights.pop(key)
            tensor = model.graph.initializer.add(
                name=key, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype)
            )
            tensor.raw_data = array.tobytes()
        return model

    def write_node(self) -> None:
        """Write the current operation."""
        op = self.op
        if op.is_view and all(map(self.is_weight, op.inputs)) and not self._repeats_weight(op):
            return  # `weight_values` follows views
        if all(ref.elements == 0 for ref in op.outputs):
            return  # the statistics that a batch norm saves for training
        if op.op not in WRITERS:
            raise UnwritableError(
                f"{self.where} uses the operation aten::{op.op}, which cannot be written as ONNX. Supported are "
                f"{', '.join(sorted(name for name in WRITERS if not name.startswith('_')))}. "
                "Replace the layer by supported ones."
            )
        result = WRITERS[op.op](self, op, op.arguments)
        if op.in_place:  # other views of the same memory are out of date
            self.values = {ref: name for ref, name in self.values.items() if ref.storage != op.outputs[0].storage}
            self._changed.add(op.outputs[0].storage)
        self.values[op.outputs[0]] = result

    def _num_readers(self) -> Counter[str]:
        """How often each tensor is read, by nodes or as an output of the network."""
        found = Counter(name for node in self.nodes for name in node.input)
        found.update(self.values[ref] for ref in self.graph.outputs if ref in self.values)
        return found

    def _fold_padding(self) -> None:
        """Fold zero padding, which may differ between the two ends of a side, into the convolution after it."""
        readers = self._num_readers()
        makers = {node.output[0]: node for node in self.nodes}
        gone = set()
        for node in self.nodes:
            pad = makers.get(node.input[0]) if node.op_type == "Conv" else None
            if pad is None or pad.op_type != "Pad" or readers[pad.output[0]] > 1 or self.weights[pad.input[2]] != 0:
                continue
            added = self.weights[pad.input[1]]
            rank = len(added) // 2
            if added.min() < 0 or added[:2].any() or added[rank : rank + 2].any():
                continue  # cropping, or added channels
            own = next(attribute for attribute in node.attribute if attribute.name == "pads")
            own.ints[:] = [a + b for a, b in zip(own.ints, [*added[2:rank], *added[rank + 2 :]], strict=True)]
            node.input[0] = pad.input[0]
            gone.add(pad.output[0])
        self.nodes = [node for node in self.nodes if node.output[0] not in gone]

    def _name_outputs(self, outputs: Sequence[str]) -> None:
        """Rename the results of the network to these names."""
        from onnx import helper

        made = {node.output[0] for node in self.nodes}
        renamed: dict[str, str] = {}
        for ref, wanted in zip(self.graph.outputs, outputs, strict=True):
            name = self.name_of(ref)
            if name in made and name not in renamed:
                renamed[name] = wanted
            else:  # an input, a weight, or a result that is returned twice
                self.nodes.append(helper.make_node("Identity", [name], [wanted], name=f"{wanted}.copy"))
        for node in self.nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]


class _TimingWriter(OnnxWriter):
    """Names nodes after their rows, and writes random weights, since times do not depend on values."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph, {})
        self._rows = rows_by_node(graph)
        # All weights repeat the same few values, neither zeros nor denormals, which would change the time.
        self._noise = np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32) * 0.05

    def unique_name(self, kind: str) -> str:
        return f"row{self._rows.get(id(self.op), len(self._rows))}_{len(self.nodes)}"

    def weight_values(self, ref: Tensor) -> Array:
        variance = (self.graph.storages[ref.storage].path or "").endswith("running_var")
        return np.ones(ref.shape, np.float32) if variance else np.resize(self._noise, ref.shape)

    def handle_unknown(self, ref: Tensor) -> str:
        return self.constant(np.float32(0.5))

    def write_node(self) -> None:
        if id(self.op) in self._rows:
            super().write_node()


def serialize_for_timing(graph: Graph) -> bytes:
    """The trace as a serialised ONNX model with random weights, one float32 input and one output."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1 or graph.inputs[0].dtype != "float32":
        raise UsageError(
            "timing in ONNX Runtime needs a network with one float32 input and one output. Choose the executor torch."
        )
    try:
        return bytes(_TimingWriter(graph).write(["input"], ["output"], "timing").SerializeToString())
    except UsageError as error:
        raise UsageError(f"{error} Choose the executor torch.") from error
