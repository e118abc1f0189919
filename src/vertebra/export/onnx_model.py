"""An ONNX model in memory, with its producers, consumers and weights by tensor name."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, TypeAlias

import numpy as np
import onnx

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# In int8, a layer and the activation after it are one step: the output range does the clipping.
CLIPPING = ("Relu", "Clip")
WEIGHTED = ("Conv", "Gemm")


class OnnxModel:
    """A view of a model; `set_weights` changes the model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = model.graph.node
        self.weights = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {item.name for item in model.graph.output}

    def copy(self) -> OnnxModel:
        """Copy the model and its view."""
        return OnnxModel(copy.deepcopy(self.model))

    def weighted(self) -> list[onnx.NodeProto]:
        """Return convolutions and linear layers in order."""
        return [node for node in self.nodes if node.op_type in WEIGHTED]

    def before_first_layer(self) -> list[onnx.NodeProto]:
        """Return the nodes before the first convolution: normalisation."""
        return list(takewhile(lambda node: node.op_type != "Conv", self.nodes))

    def result(self, node: onnx.NodeProto) -> str:
        """Return the output of a layer or sum, including a ReLU or ReLU6 that only it feeds."""
        name: str = node.output[0]
        consumers = self.consumers.get(name, [])
        alone = len(consumers) == 1 and name not in self.outputs
        if alone and node.op_type in (*WEIGHTED, "Add") and consumers[0].op_type in CLIPPING:
            return str(consumers[0].output[0])
        return name

    def set_weights(self, values: dict[str, Array]) -> None:
        """Replace initializers by name."""
        for item in self.model.graph.initializer:
            if item.name in values:
                item.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values[item.name]), item.name))
        self.weights |= values

    def drop_unused(self) -> None:
        """Remove initializers that no node reads."""
        used = {name for node in self.nodes for name in node.input}
        kept = [item for item in self.model.graph.initializer if item.name in used]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or the default."""
    return next((onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def add_outputs(model: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """Serialise the model with inner tensors as additional outputs."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    present = {item.name for item in extended.graph.output}
    for name in names:
        if name not in present:
            extended.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    content: bytes = extended.SerializeToString()
    return content
