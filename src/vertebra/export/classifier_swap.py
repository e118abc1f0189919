"""Another classifier in a graph that is there already: what changes when only a head has been trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from vertebra.errors import UsageError

from .deployed_network import OUTPUTS


def with_classifier(model: onnx.ModelProto, classifier: nn.Module, temperature: float = 1.0) -> onnx.ModelProto:
    """The model with its last linear layer replaced, the logits divided by the temperature within that layer.

    Raises:
        UsageError: the model or the classifier is not made for that.
    """
    probabilities, embedding, _ = OUTPUTS
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    softmax = makers.get(probabilities)
    linear = makers.get(softmax.input[0]) if softmax is not None and softmax.op_type == "Softmax" else None
    divided = linear if linear is not None and linear.op_type == "Div" else None  # by the old one's temperature
    if divided is not None:
        linear = makers.get(divided.input[0])
    weights = {item.name: item for item in graph.initializer}
    if (
        linear is None
        or linear.op_type != "Gemm"
        or len(linear.input) != 3
        or linear.input[0] != embedding
        or type(classifier) is not nn.Linear
        or weights[linear.input[1]].dims[1 if _transposed(linear) else 0] != classifier.in_features
    ):
        raise UsageError(
            "the graph's classifier cannot be replaced: it must end in one linear layer over its embedding and a "
            "softmax, in float32, for as many features as the new one takes. Export the network without body=."
        )
    weight = (classifier.weight.detach().numpy() / temperature).astype(np.float32)
    # A layer without a bias has None there, whatever torch's annotation says.
    given: Any = classifier.bias
    bias = np.zeros(len(weight)) if given is None else given.detach().numpy() / temperature
    values = (weight if _transposed(linear) else weight.T, bias.astype(np.float32))
    for name, value in zip(linear.input[1:], values, strict=True):
        weights[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))
    if divided is not None and softmax is not None:
        softmax.input[0] = divided.input[0]
        graph.node.remove(divided)
        graph.initializer.remove(weights[divided.input[1]])
    output = next(item for item in graph.output if item.name == probabilities)
    output.type.tensor_type.shape.dim[1].dim_value = len(weight)
    return model


def _transposed(linear: onnx.NodeProto) -> bool:
    """Whether the weight is (out, in), as torch has it."""
    return any(attribute.name == "transB" and attribute.i == 1 for attribute in linear.attribute)
