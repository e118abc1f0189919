"""A network's stages, read from its exported file; the web page draws them."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from vertebra.graph.cost import Kind
from vertebra.graph.ir import Graph, Node
from vertebra.graph.onnx_cost import cost
from vertebra.graph.onnx_graph import build_graph
from vertebra.graph.onnx_reader import OnnxFile

# These surround the layers of an int8 file.
_NON_LAYERS = ("QuantizeLinear", "DequantizeLinear", "Constant", "Identity")
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_HEAD_OPS = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Flatten", "Reshape", "Softmax")


def network_stages(file: OnnxFile, size: int) -> dict[str, Any]:
    """The stages in order, each with name, kind, output shape, parameters, multiply-accumulates and layers."""
    graph, _ = build_graph(file, size)
    nodes = [node for node in graph.nodes if node.op not in _NON_LAYERS]
    while nodes and nodes[0].op not in _WEIGHTED:  # other operations belong to the layer before them
        del nodes[0]
    names: list[str] = []
    for node in nodes:
        names.append(_stage_name(node.name) if node.op in _WEIGHTED else names[-1])
    groups = groupby(zip(names, nodes, strict=True), key=lambda pair: pair[0])
    stages = [_describe_stage(name, [node for _, node in pairs], graph) for name, pairs in groups]
    totals = {key: sum(stage[key] for stage in stages) for key in ("parameters", "macs")}
    return {"input": [size, size, 3], "stages": stages, **totals}


def _stage_name(name: str) -> str:
    """`features.1` for `features.1.conv.0.0`, `layer1` for `layer1.0.conv1`."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] in ("features", "classifier") else 1])


def _describe_stage(name: str, nodes: list[Node], graph: Graph) -> dict[str, Any]:
    # The shape before global pooling is more informative than the one after it.
    shape = [node.outputs[0].shape[1:] for node in nodes if node.op not in _HEAD_OPS][-1]
    channels, height, width = shape if len(shape) == 3 else (shape[-1] if shape else 0, 1, 1)
    return {
        "name": name,
        "kind": _stage_kind(nodes),
        "channels": channels,
        "height": height,
        "width": width,
        "parameters": sum(_count_parameters(node, graph) for node in nodes),
        "macs": sum(cost(node).macs for node in nodes),
        "layers": sum(node.op in _WEIGHTED for node in nodes),
    }


def _stage_kind(nodes: list[Node]) -> str:
    weighted = [node for node in nodes if node.op in _WEIGHTED]
    ops = [node.op for node in nodes]
    if all(node.op in ("Gemm", "MatMul") for node in weighted):
        return "Linear"
    if any(cost(node).kind is Kind.DEPTHWISE for node in weighted):
        return "MBConv" if len(weighted) > 1 else "depthwise"
    if "Concat" in ops:
        return "dense block" if ops.count("Concat") > 1 else "Inception"
    if "Add" in ops and len(weighted) > 1:
        return "residual"
    return "Conv"


def _count_parameters(node: Node, graph: Graph) -> int:
    if node.op == "BatchNormalization":
        return 2 * node.outputs[0].shape[1]
    if node.op not in _WEIGHTED:
        return 0
    return sum(tensor.elements for tensor in node.operands[1:3] if tensor is not None and graph.is_weight(tensor))
