"""Fuse input normalisation into the first QuantizeLinear, where the first convolution is in int8.

ONNX Runtime moves the transposition of the image behind all that can be done before it, so that scaling and shifting
would run over pixels of three values at a time: 1.5 ms of 7. Both forms here leave nothing to move.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from .deployed_network import INPUT
from .onnx_model import Array, OnnxModel

# How far a shift may be from a whole number of levels to count as one.
_TOLERANCE = 1e-3


def normalisation(graph: OnnxModel) -> tuple[str, Array, Array]:
    """The tensor that the first convolution takes, and the scale and shift (3,) that make it from bytes."""
    nodes = {node.op_type: node for node in graph.before_first_layer()}
    scale, shift = (graph.weights[nodes[kind].input[1]].ravel() for kind in ("Mul", "Add"))
    return str(nodes["Add"].output[0]), np.broadcast_to(scale, 3), np.broadcast_to(shift, 3)


def normalised_range(scale: Array, shift: Array) -> tuple[float, float]:
    """What bytes can become."""
    return float(shift.min()), float((255 * scale + shift).max())


def fuse_normalisation(model: onnx.ModelProto) -> onnx.ModelProto:
    """The quantised model with a fast beginning; as it is where the first convolution is in float."""
    graph = OnnxModel(model)
    normalised, scale, shift = normalisation(graph)
    pair = [node for node in graph.nodes if node.name in (f"{normalised}.quantise", f"{normalised}.dequantise")]
    if len(pair) != 2:
        return model
    old = [node for node in graph.nodes if node.op_type in ("Transpose", "Cast", "Mul", "Add")][:4] + pair
    parameters = list(pair[0].input[1:])
    after = pair[1].output[0]
    zero = -shift / scale
    if np.ptp(scale) == 0 and np.ptp(shift) == 0 and abs(zero[0] - round(float(zero[0]))) < _TOLERANCE:
        # One mean and one deviation for all channels, as EfficientNet-Lite has: the bytes are the levels.
        new: list[onnx.NodeProto] = []
        constants: dict[str, Array] = {}
        levels = INPUT
    else:
        size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        constants = {
            "rows": np.array([-1, size, size * 3], np.int64),
            "pixels": np.array([-1, size, size, 3], np.int64),
            "row.scale": np.tile(scale, size).astype(np.float32),
            "row.shift": np.tile(shift, size).astype(np.float32),
        }
        new = [
            helper.make_node("Reshape", [INPUT, "rows"], ["image.rows"], "image.rows"),
            helper.make_node("Cast", ["image.rows"], ["image.float"], "image.float", to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["image.float", "row.scale"], ["image.scaled"], "image.scaled"),
            helper.make_node("Add", ["image.scaled", "row.shift"], ["image.shifted"], "image.shifted"),
            helper.make_node("QuantizeLinear", ["image.shifted", *parameters], ["image.levels"], "image.levels"),
            helper.make_node("Reshape", ["image.levels", "pixels"], ["image.pixels"], "image.pixels"),
        ]
        levels = "image.pixels"
    new += [
        helper.make_node("Transpose", [levels], ["image.first"], "image.first", perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["image.first", *parameters], [after], f"{normalised}.dequantise"),
    ]
    gone = {node.name for node in old}
    rest = [node for node in graph.nodes if node.name not in gone]
    del model.graph.node[:]
    model.graph.node.extend([*new, *rest])
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    OnnxModel(model).drop_unused()
    return model
