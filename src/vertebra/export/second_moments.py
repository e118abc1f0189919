"""E[x xᵀ] of the inputs x of layers over photos, by which their weights are rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from .onnx_model import Array, OnnxModel, attribute

_POSITIONS = 100  # of a layer's outputs sampled per photo: enough for a covariance
# Memory that second moments may take at once, in bytes: those of ResNet-50 take 490 MB.
_MOMENT_BYTES = 600_000_000
MAX_INPUTS = 5000  # of a layer's output; beyond, second moments cost more than they bring (VGG's first linear layer)


@dataclass(frozen=True)
class _Part:
    """Of a layer for one photo: its sampled inputs (G, K, samples), or their product (G, K, K)."""

    samples: int
    inputs: Array | None = None
    product: Array | None = None


class MomentObserver:
    """E[x xᵀ] (G, K, K) of the inputs x of each layer's G groups, sampled at random positions."""

    def __init__(self, graph: OnnxModel, nodes: Sequence[onnx.NodeProto]) -> None:
        self.names = sorted({node.input[0] for node in nodes})
        self._graph = graph
        self._nodes = nodes
        self._totals: dict[str, Array] = {}
        self._samples = dict.fromkeys((node.name for node in nodes), 0)

    def reduce(self, photo: int, tensors: Mapping[str, Array]) -> dict[str, _Part]:
        """Sample the inputs of each layer for one photo."""
        random = np.random.default_rng(photo)
        parts = {}
        for node in self._nodes:
            x = _sample_inputs(self._graph, node, tensors[node.input[0]], random)
            inputs, samples = x.shape[1:]
            # The smaller of the two: depthwise convolutions have few inputs each, and many groups.
            parts[node.name] = _Part(samples, product=_square(x)) if inputs < samples else _Part(samples, inputs=x)
        return parts

    def add(self, parts: Sequence[Mapping[str, _Part]]) -> None:
        """Add x xᵀ of some photos' samples: one product for all of them, since each one writes (K, K) anew."""
        for node in self._nodes:
            found = [part[node.name] for part in parts]
            # All of a layer's parts are of one kind: its photos have the same size.
            products = [part.product for part in found if part.product is not None]
            sampled = [part.inputs for part in found if part.inputs is not None]
            total: Array = np.sum(products, axis=0) if products else _square(np.concatenate(sampled, axis=2))
            if node.name in self._totals:
                self._totals[node.name] += total
            else:
                self._totals[node.name] = total
            self._samples[node.name] += sum(part.samples for part in found)

    def moments(self) -> Iterator[tuple[onnx.NodeProto, Array]]:
        """Yield each layer with its moment, which is then no longer held here."""
        for node in self._nodes:
            total = self._totals.pop(node.name)
            total /= np.float32(self._samples[node.name])
            yield node, total


def num_groups(node: onnx.NodeProto) -> int:
    """Return the groups of a convolution; 1 for a linear layer."""
    return int(attribute(node, "group", 1))


def split_by_memory(graph: OnnxModel, nodes: Sequence[onnx.NodeProto]) -> list[list[onnx.NodeProto]]:
    """Split layers into parts whose moments fit into memory together: at least one part, at least a layer in each."""
    parts: list[list[onnx.NodeProto]] = [[]]
    total = 0
    for node in nodes:
        needed = 4 * num_groups(node) * graph.weights[node.input[1]][0].size ** 2
        if parts[-1] and total + needed > _MOMENT_BYTES:
            parts.append([])
            total = 0
        parts[-1].append(node)
        total += needed
    return parts


def _sample_inputs(graph: OnnxModel, node: onnx.NodeProto, value: Array, random: np.random.Generator) -> Array:
    """Sample the inputs of single outputs for a photo (1, C, …): (groups, K, samples), K as in the weights."""
    if node.op_type == "Gemm":
        return value[:, :, None]
    kernel = graph.weights[node.input[1]].shape[2:]
    top, left, bottom, right = attribute(node, "pads", [0] * 4)
    strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    value = value[0]
    if top or left or bottom or right:
        value = np.pad(value, ((0, 0), (top, bottom), (left, right)))
    channels, height, width = value.shape
    rows, columns = (
        (side - dilation * (taps - 1) - 1) // stride + 1
        for side, taps, dilation, stride in zip((height, width), kernel, dilations, strides, strict=True)
    )
    count = rows * columns
    at = np.arange(count) if count <= _POSITIONS else random.choice(count, _POSITIONS, replace=False)
    corners = at // columns * strides[0] * width + at % columns * strides[1]
    taps = np.arange(kernel[0])[:, None] * dilations[0] * width + np.arange(kernel[1]) * dilations[1]
    x: Array = value.reshape(channels, -1).take(taps.reshape(-1, 1) + corners, axis=1)  # (C, kh · kw, samples)
    return x.reshape(num_groups(node), -1, len(at))


def _square(x: Array) -> Array:
    """x xᵀ of (G, K, samples): (G, K, K)."""
    product: Array = x @ x.transpose(0, 2, 1)
    return product
