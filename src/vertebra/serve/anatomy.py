"""A network's stages as its file has them: what the page draws, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vertebra.graph.onnx_reader import Graph, Node

Shape = tuple[int, ...]

# In an int8 file these stand around each layer; they are no layers.
_AROUND = ("QuantizeLinear", "DequantizeLinear", "Constant", "Identity")
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_NORMS = ("BatchNormalization",)
_TO_ONE = ("GlobalAveragePool", "GlobalMaxPool")
_WINDOWS = ("MaxPool", "AveragePool")
_ENDS = (*_TO_ONE, "ReduceMean", "Flatten", "Reshape", "Softmax")


@dataclass
class Layer:
    """One operation that computes, with what it costs for one image."""

    name: str
    kind: str
    shape: Shape  # (C, H, W) or (D,)
    parameters: int = 0
    macs: int = 0
    depthwise: bool = False


def anatomy(graph: Graph, size: int) -> dict[str, Any]:
    """The stages from the picture to the classes: name, kind, output, parameters, multiply-accumulates, layers."""
    layers = _layers(graph, size)
    stages: list[dict[str, Any]] = []
    groups: list[tuple[str, list[Layer]]] = []
    for layer in layers:
        name = _stage(layer)
        # Norms, activations and poolings belong to what is before them, except where nothing is.
        if name is None:
            if groups:
                groups[-1][1].append(layer)
            continue
        if not groups or groups[-1][0] != name:
            groups.append((name, []))
        groups[-1][1].append(layer)
    for name, members in groups:
        # A pooling to one place ends the last stage; what it pools is more telling.
        shape = [layer.shape for layer in members if layer.kind not in _ENDS][-1]
        channels, height, width = shape if len(shape) == 3 else (shape[-1] if shape else 0, 1, 1)
        stages.append(
            {
                "name": name,
                "kind": _kind(members),
                "channels": channels,
                "height": height,
                "width": width,
                "parameters": sum(layer.parameters for layer in members),
                "macs": sum(layer.macs for layer in members),
                "layers": sum(layer.kind in _WEIGHTED for layer in members),
            }
        )
    return {
        "input": [size, size, 3],
        "stages": stages,
        "parameters": sum(stage["parameters"] for stage in stages),
        "macs": sum(stage["macs"] for stage in stages),
    }


def _stage(layer: Layer) -> str | None:
    """`features.1` for `features.1.conv.0.0`, `layer1` for `layer1.0.conv1`; None: as the layer before."""
    if layer.kind not in _WEIGHTED:
        return None
    parts = layer.name.split(".")
    return ".".join(parts[: 2 if parts[0] in ("features", "classifier") else 1])


def _kind(members: list[Layer]) -> str:
    weighted = [layer for layer in members if layer.kind in _WEIGHTED]
    kinds = [layer.kind for layer in members]
    if weighted and all(layer.kind in ("Gemm", "MatMul") for layer in weighted):
        return "Linear"
    if any(layer.depthwise for layer in weighted):
        return "MBConv" if len(weighted) > 1 else "depthwise"
    if "Concat" in kinds:
        return "dense block" if kinds.count("Concat") > 1 else "Inception"
    if "Add" in kinds and len(weighted) > 1:
        return "residual"
    return "Conv"


def _layers(graph: Graph, size: int) -> list[Layer]:
    """Shapes carried through the graph, from (3, H, W) on; the batch is left out."""
    shapes: dict[str, Shape] = {"image": (size, size, 3)}
    layers = []
    for node in graph.nodes:
        known = [shapes[name] for name in node.inputs if name in shapes]
        if not known:  # made of weights alone
            continue
        shape = _shape(graph, node, known)
        for name in node.outputs:
            shapes[name] = shape
        if node.kind in _AROUND:
            continue
        layer = Layer(node.name or node.outputs[0], node.kind, shape)
        weight = _weight(graph, node)
        if weight is not None and node.kind in _WEIGHTED:
            count = math.prod(weight)
            bias = _weight(graph, node, 2)
            layer.parameters = count + (math.prod(bias) if bias else 0)
            if node.kind == "Conv":
                layer.macs = count * math.prod(shape[1:])
                layer.depthwise = node.attributes.get("group", 1) > 1 and weight[1] == 1
            else:
                layer.macs = count
        elif node.kind in _NORMS:
            layer.parameters = 2 * shape[0]
        layers.append(layer)
    return layers


def _weight(graph: Graph, node: Node, position: int = 1) -> Shape | None:
    """The shape of a layer's weight or bias, also where it is kept in 8 bits."""
    if len(node.inputs) <= position:
        return None
    name = node.inputs[position]
    maker = graph.maker.get(name)
    if maker is not None and maker.kind == "DequantizeLinear":
        name = maker.inputs[0]
    tensor = graph.tensors.get(name)
    return None if tensor is None else tensor.shape


def _shape(graph: Graph, node: Node, known: list[Shape]) -> Shape:
    first = known[0]
    attributes = node.attributes
    if node.kind == "Conv":
        weight = _weight(graph, node) or (first[0], first[0], 1, 1)
        return (weight[0], *_window(first[1:], attributes.get("kernel_shape", weight[2:]), attributes))
    if node.kind in _WINDOWS:
        return (first[0], *_window(first[1:], attributes["kernel_shape"], attributes))
    if node.kind in _TO_ONE:
        return (first[0], 1, 1)
    if node.kind == "Gemm":
        weight = _weight(graph, node) or first
        return (weight[0] if attributes.get("transB") else weight[-1],)
    if node.kind == "MatMul":
        matrix = _weight(graph, node)
        return first if matrix is None else (*first[:-1], matrix[-1])
    if node.kind == "Flatten":
        return (math.prod(first),)
    if node.kind == "Transpose":
        order = attributes.get("perm", [0, *range(len(first), 0, -1)])
        return tuple(first[axis - 1] for axis in order[1:])
    if node.kind == "Reshape":
        wanted = graph.tensors.get(node.inputs[1])
        return _reshaped(first, graph.read(wanted.name).tolist() if wanted is not None else [])
    if node.kind == "Concat":
        axis = attributes.get("axis", 1) - 1
        return tuple(sum(shape[i] for shape in known) if i == axis else first[i] for i in range(len(first)))
    if node.kind == "ReduceMean":
        return (first[0], 1, 1) if attributes.get("keepdims", 1) else (first[0],)
    if node.kind in ("Add", "Mul", "Div", "Sub") and len(known) > 1:
        return max(known, key=math.prod)
    return first


def _window(size: Shape, kernel: Any, attributes: dict[str, Any]) -> Shape:
    """Height and width after a convolution or a pooling."""
    strides, dilations = attributes.get("strides") or [1, 1], attributes.get("dilations") or [1, 1]
    pads = attributes.get("pads") or [0, 0, 0, 0]
    rounded = math.ceil if attributes.get("ceil_mode") else math.floor
    return tuple(
        int(rounded((size[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) / strides[i])) + 1
        for i in (0, 1)
    )


def _reshaped(shape: Shape, wanted: list[int]) -> Shape:
    rest = wanted[1:]
    if -1 in rest:
        known = math.prod(value for value in rest if value > 0)
        return tuple(math.prod(shape) // known if value == -1 else value for value in rest)
    return tuple(rest) if rest and math.prod(rest) == math.prod(shape) else shape
