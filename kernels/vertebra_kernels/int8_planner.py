"""Turns a graph of QuantizeLinear / DequantizeLinear pairs into fused steps in int8.

The pairs are taken off, and what remains is read as a float graph is; each layer then says which levels it reads and
writes. An activation is where the levels end, so none is left in the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vertebra_kernels.graph import Graph, Node, UnsupportedGraph
from vertebra_kernels.plan import Activation, Array, Classifier, Convolution, FusedBlock, InvertedResidual, Plan
from vertebra_kernels.planner import Reader

Integers: TypeAlias = NDArray[np.int32]
_PAIR = ("QuantizeLinear", "DequantizeLinear")


class Levels(NamedTuple):
    """value = scale x (level - zero), level in 0 ... 255."""

    scale: np.float32
    zero: int


@dataclass(frozen=True)
class Int8Layer:
    """A layer with weights: levels in, levels out (none of the classifier), integers between."""

    weight: NDArray[np.int8]
    bias: Integers  # of scale: that of the input x `weight_scale`
    weight_scale: Array  # of each output
    source: Levels
    result: Levels | None


@dataclass(frozen=True)
class Int8Convolution(Convolution):
    """A convolution whose `weight` and `bias` are integers."""

    layer: Int8Layer


@dataclass
class Int8Plan:
    """A plan whose convolutions are `Int8Convolution`, with the levels between."""

    plan: Plan
    image: NDArray[np.uint8]  # [channel][byte] -> level
    inputs: list[Levels]  # of each block
    outputs: list[Levels]
    input_first: list[bool]  # whether a block's sum names its input first
    mean: Levels
    classifier: Int8Layer
    factor: float  # of the logits


def is_int8(graph: Graph) -> bool:
    """Whether any of its tensors is quantised."""
    return any(node.op in _PAIR for node in graph.nodes)


def make_int8_plan(graph: Graph) -> Int8Plan:
    """The steps of `graph`; raises `UnsupportedGraph`."""
    return _Int8Reader(_without_pairs(graph)).int8_plan()


class _Bare(NamedTuple):
    """A graph whose pairs were taken off."""

    graph: Graph
    levels: dict[str, Levels]  # of activations
    weight_scales: dict[str, Array]  # of constants, which hold integers


def _without_pairs(graph: Graph) -> _Bare:
    names: dict[str, str] = {}  # tensor -> what it was before quantising, or the constant
    levels: dict[str, Levels] = {}
    scales: dict[str, Array] = {}
    rest: list[Node] = []
    for node in graph.nodes:
        first = names.get(node.inputs[0], node.inputs[0])
        if node.op not in _PAIR:
            inputs = tuple(names.get(name, name) for name in node.inputs)
            rest.append(node._replace(inputs=inputs))
            continue
        scale, zero = (graph.constants.get(name) for name in (*node.inputs[1:3], "")[:2])
        if scale is None or zero is None:
            raise UnsupportedGraph(f"node {node.outputs[0]!r} ({node.op}): its scale and zero point are no constants")
        names[node.outputs[0]] = first
        if first in graph.constants:
            if zero.any() or scale.dtype != np.float32 or node.attributes.get("axis", 0) != 0:
                raise UnsupportedGraph(f"node {node.outputs[0]!r} ({node.op}): its zero points are not 0, or its axis")
            scales[first] = scale.reshape(-1).astype(np.float32)
            continue
        if scale.size != 1 or scale.dtype != np.float32 or zero.dtype != np.uint8 or not float(scale.reshape(())) > 0:
            raise UnsupportedGraph(f"node {node.outputs[0]!r} ({node.op}): it is not to uint8 with one positive scale")
        found = Levels(np.float32(scale.reshape(())), int(zero.reshape(())))
        if levels.setdefault(first, found) != found:
            raise UnsupportedGraph(f"tensor {first!r} is quantised in two ways")
    outputs = {name: names.get(tensor, tensor) for name, tensor in graph.outputs.items()}
    return _Bare(graph._replace(nodes=rest, outputs=outputs), levels, scales)


class _Int8Reader(Reader):
    def __init__(self, bare: _Bare) -> None:
        super().__init__(bare.graph)
        self.levels, self.weight_scales = bare.levels, bare.weight_scales
        self.image = np.zeros((3, 256), np.uint8)
        self.inputs: list[Levels] = []
        self.outputs: list[Levels] = []
        self.input_first: list[bool] = []
        self.factor = 1.0
        self.last: Int8Layer | None = None

    def int8_plan(self) -> Int8Plan:
        plan = self.plan()
        pooled = next(node.outputs[0] for node in self.graph.nodes if node.op == "GlobalAveragePool")
        mean = self.levels_of(pooled)
        embedding = next(tensor for tensor, kind in self.kinds.items() if kind == "embedding")
        if self.levels_of(embedding) != mean:
            raise UnsupportedGraph(f"tensor {embedding!r} has other levels than the means")
        if self.last is None:
            raise UnsupportedGraph("there is no classifier")
        return Int8Plan(plan, self.image, self.inputs, self.outputs, self.input_first, mean, self.last, self.factor)

    def levels_of(self, tensor: str) -> Levels:
        if tensor not in self.levels:
            raise UnsupportedGraph(f"tensor {tensor!r} is in float32 beside others in int8")
        return self.levels[tensor]

    def normalisation(self) -> tuple[Array, Array]:
        """Which level each byte of the image becomes; nothing is left to scale or shift."""
        values = np.broadcast_to(np.arange(256, dtype=np.float32), (3, 256))
        scaled = False
        while self.peek().op != "Conv":
            node = self.take("Reshape", "Cast", "Mul", "Add", "Transpose")
            if node.op in ("Mul", "Add"):
                row = self.channels(node)
                values = values * row[:, None] if node.op == "Mul" else values + row[:, None]
                scaled = True
            if self.tensor in self.levels and scaled:
                found = self.levels[self.tensor]
                values = np.clip(np.rint(values / found.scale) + np.float32(found.zero), 0, 255)
                scaled = False
            if node.op == "Transpose" and list(node.attributes.get("perm", ())) != [0, 3, 1, 2]:  # type: ignore[call-overload]
                raise self.unsupported(node, "the input is not (N, height, width, 3)")
            if node.op == "Reshape":
                height, width = self.graph.image_size
                shape = [int(size) for size in self.constant(node, 1).reshape(-1)]
                if shape not in ([-1, height, width * 3], [-1, height, width, 3]):
                    raise self.unsupported(node, f"its shape {shape} is neither rows nor pixels")
        self.levels_of(self.tensor)
        if scaled:
            raise UnsupportedGraph(f"tensor {self.tensor!r} is in float32 beside others in int8")
        self.image = values.astype(np.uint8)
        return np.ones(3, np.float32), np.zeros(3, np.float32)

    def channels(self, node: Node) -> Array:
        """Three values of a node whose constant may repeat them for all pixels of a row."""
        names = [name for name in node.inputs if name in self.graph.constants]
        values = self.graph.constants[names[0]] if len(names) == 1 else np.zeros(0)
        if values.shape != (3 * self.graph.image_size[1],) or (values.reshape(-1, 3) != values[:3]).any():
            return super().channels(node)
        return values[:3].astype(np.float32)

    def block(self, stem: Convolution | None = None, stem_activation: Activation | None = None) -> InvertedResidual:
        start = self.tensor
        block = super().block(stem, stem_activation)
        # Of the first block the input is the stem's; it has no sum.
        self.inputs.append(self.levels_of(start))
        self.outputs.append(self.levels_of(self.tensor))
        made = next(node for node in self.graph.nodes if node.outputs[0] == self.tensor)
        self.input_first.append(made.inputs[0] == start)
        return block

    def fused_block(self) -> FusedBlock:
        raise self.unsupported(self.peek("Conv"), "dense convolutions inside a network are not known in int8")

    def convolution(self) -> Convolution:
        source = self.tensor
        node = self.peek("Conv")
        found = super().convolution()
        layer = self.layer(node, source, self.tensor)
        return Int8Convolution(found.weight, found.bias, found.stride, found.pads, found.groups, layer)

    def layer(self, node: Node, source: str, result: str | None) -> Int8Layer:
        weight, scale = self.constant(node, 1), self.weight_scales.get(node.inputs[1])
        if scale is None or weight.dtype != np.int8:
            raise self.unsupported(node, "its weights are not int8, as those of the other layers are")
        outputs = len(weight)
        bias = self.constant(node, 2) if len(node.inputs) > 2 else np.zeros(outputs, np.int32)
        levels = self.levels_of(source)
        scale = np.broadcast_to(scale, outputs)
        if len(node.inputs) > 2:
            bias_scale = self.weight_scales.get(node.inputs[2])
            if bias.dtype != np.int32 or bias.shape != (outputs,) or bias_scale is None:
                raise self.unsupported(node, "its bias is not int32")
            if not np.allclose(np.broadcast_to(bias_scale, outputs), levels.scale * scale, rtol=1e-5, atol=0):
                raise self.unsupported(node, "the scale of its bias is not that of its input x that of its weights")
        written = None if result is None else self.levels_of(result)
        return Int8Layer(weight.astype(np.int8), bias.astype(np.int32), scale.astype(np.float32), levels, written)

    def activation(self) -> Activation:
        """What the levels before are limited to; an activation of its own is left to other engines."""
        if any(node.op in ("Clip", "Relu", "Sigmoid") for node in self.users.get(self.tensor, [])):
            raise UnsupportedGraph(
                f"tensor {self.tensor!r} is in float32 beside others in int8: an activation reads it"
            )
        return Activation(low=0.0)

    def classifier(self, channels: int) -> Classifier:
        source, node = self.tensor, self.peek("Gemm")
        found = super().classifier(channels)
        if not node.attributes.get("transB", 0):
            raise self.unsupported(node, "its weights are not (classes, channels)")
        self.last = self.layer(node, source, None)
        return found

    def scaled(self, classifier: Classifier, factor: float) -> Classifier:
        self.factor = factor
        return classifier
