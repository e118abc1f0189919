"""A float graph and its quantisation parameters → a graph of QuantizeLinear / DequantizeLinear pairs (QDQ).

Each pair marks a tensor as 8 bits; a runtime computes what is between the pairs in integers. Activations are uint8,
weights int8 with a scale for each output channel, biases int32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from .onnx_model import WEIGHTED, Array, OnnxModel

# What ONNX Runtime has integer kernels for and these networks use.
QUANTISABLE = (
    *WEIGHTED,
    "Add",
    "Mul",
    "Sigmoid",
    "Concat",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Flatten",
)
# These pass values on unchanged, so their result has the scale and zero point of their input.
_PASSING = ("MaxPool", "Flatten")


@dataclass(frozen=True)
class Scale:
    """value = scale · (integer − zero_point)."""

    scale: float
    zero_point: int

    @classmethod
    def of_range(cls, low: float, high: float) -> Scale:
        """For uint8 over this range, extended to hold 0, which then has an integer of its own."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / 255, 1e-8)
        return cls(scale, round(-low / scale))

    def levels(self, values: Array) -> Array:
        """The integers of these values."""
        levels: Array = np.clip(np.rint(values / self.scale) + self.zero_point, 0, 255)
        return levels

    def rounded(self, values: Array) -> Array:
        """The values as they come back."""
        return (self.levels(values) - self.zero_point) * self.scale


class Writer:
    """Builds the quantised model; used once."""

    def __init__(
        self,
        graph: OnnxModel,
        ranges: Mapping[str, tuple[float, float]],
        weight_scales: Mapping[str, Array],
        quantised: Collection[str],
    ) -> None:
        self.graph = graph
        self.ranges = ranges
        self.weight_scales = weight_scales
        self.quantised = quantised
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.scales: dict[str, Scale] = {}
        self.renamed: dict[str, str] = {}  # tensor -> its dequantised form, where all that follows reads that
        self.pairs: dict[str, str] = {}  # tensor -> its dequantised form

    def model(self) -> onnx.ModelProto:
        """The quantised model."""
        merged = self._merged()
        for node in self.graph.nodes:
            if node.name in merged:
                continue
            new = onnx.NodeProto()
            new.CopyFrom(node)
            if node.name not in self.quantised:
                new.input[:] = [self.renamed.get(name, name) for name in node.input]
                self.nodes.append(new)
                continue
            self._quantise(new, node)
        result = onnx.ModelProto()
        result.CopyFrom(self.graph.model)
        del result.graph.node[:]
        result.graph.node.extend(self.nodes)
        result.graph.initializer.extend(self.constants.values())
        graph = OnnxModel(result)
        graph.drop_unused()
        return result

    def _merged(self) -> set[str]:
        """ReLU and ReLU6 after a quantised layer: integers cannot leave the range that they would clip to."""
        names = set()
        for node in self.graph.nodes:
            result = self.graph.result(node)
            if node.name in self.quantised and result != node.output[0]:
                names.add(self.graph.producer[result].name)
        return names

    def _quantise(self, new: onnx.NodeProto, node: onnx.NodeProto) -> None:
        weighted = node.op_type in WEIGHTED
        new.input[0] = self._pair(node.input[0])
        if weighted:
            self._weights(new, node)
        else:
            new.input[1:] = [self._pair(name) for name in node.input[1:]]
        self.nodes.append(new)
        result = self.graph.result(node)
        if result not in self.ranges:  # stays float: logits are not rounded
            new.output[0] = result
            return
        if node.op_type in _PASSING:
            self.scales[result] = self.scales[node.input[0]]
        raw = f"{result}.raw"
        new.output[0] = raw
        # A tensor that the graph gives out keeps its name, and is what the pair makes.
        after = result if result in self.graph.outputs else f"{result}.dequantised"
        self._add_pair(result, raw, after)
        self.renamed[result] = after

    def _pair(self, name: str) -> str:
        """The dequantised form of an activation."""
        if name not in self.pairs:
            self._add_pair(name, name, f"{name}.dequantised")
        return self.pairs[name]

    def _add_pair(self, name: str, source: str, after: str) -> None:
        scale = self.scales.setdefault(name, Scale.of_range(*self.ranges[name]))
        parameters = [
            self._constant(f"{name}.scale", np.float32(scale.scale)),
            self._constant(f"{name}.zero_point", np.uint8(scale.zero_point)),
        ]
        self.nodes += [
            helper.make_node("QuantizeLinear", [source, *parameters], [f"{name}.quantised"], f"{name}.quantise"),
            helper.make_node("DequantizeLinear", [f"{name}.quantised", *parameters], [after], f"{name}.dequantise"),
        ]
        self.pairs[name] = after

    def _weights(self, new: onnx.NodeProto, node: onnx.NodeProto) -> None:
        name = node.input[1]
        weight, scale = self.graph.weights[name], self.weight_scales[name].astype(np.float32)
        integers = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).clip(-127, 127).astype(np.int8)
        new.input[1] = self._dequantised(name, integers, scale)
        if len(node.input) > 2:
            name = node.input[2]
            bias, scale = self.graph.weights[name], np.float32(self.scales[node.input[0]].scale) * scale
            limit = np.iinfo(np.int32).max
            integers = np.rint(bias.astype(np.float64) / scale).clip(-limit, limit).astype(np.int32)
            new.input[2] = self._dequantised(name, integers, scale)

    def _dequantised(self, name: str, integers: Array, scale: Array) -> str:
        parameters = [
            self._constant(f"{name}.quantised", integers),
            self._constant(f"{name}.scale", scale),
            self._constant(f"{name}.zero_point", np.zeros(scale.shape, integers.dtype)),
        ]
        after = f"{name}.dequantised"
        self.nodes.append(helper.make_node("DequantizeLinear", parameters, [after], f"{name}.dequantise", axis=0))
        return after

    def _constant(self, name: str, value: Array | np.generic) -> str:
        self.constants.setdefault(name, onnx.numpy_helper.from_array(np.asarray(value), name))
        return name
