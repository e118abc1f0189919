"""A network's stages as its file has them: what the page draws, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vertebra.graph.cost import Kind
from vertebra.graph.onnx_cost import cost
from vertebra.graph.onnx_graph import graph_of
from vertebra.graph.onnx_reader import OnnxFile

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


def anatomy(file: OnnxFile, size: int) -> dict[str, Any]:
    """The stages from the picture to the classes: name, kind, output, parameters, multiply-accumulates, layers."""
    layers = _layers(file, size)
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


def _layers(file: OnnxFile, size: int) -> list[Layer]:
    """What computes, in order, for one image."""
    graph, _ = graph_of(file, size)
    layers = []
    for node in graph.nodes:
        if node.op in _AROUND:
            continue
        counted, shape = cost(node), node.outputs[0].shape[1:]
        layer = Layer(node.name, node.op, shape, macs=counted.macs, depthwise=counted.kind is Kind.DEPTHWISE)
        if node.op in _WEIGHTED:
            weights = [tensor for tensor in node.operands[1:3] if tensor is not None and graph.is_weight(tensor)]
            layer.parameters = sum(tensor.elements for tensor in weights)
        elif node.op in _NORMS:
            layer.parameters = 2 * shape[0]
        layers.append(layer)
    return layers
