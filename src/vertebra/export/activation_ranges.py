"""Statistics of the activations of a float graph over photos: extents, ranges for int8, second moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from vertebra.pixels import Pixels
from vertebra.progress import Progress, silent

from .deployed_network import INPUT
from .onnx_model import Array, OnnxModel, add_outputs, attribute
from .qdq_writer import Scale
from .torch_check import session

_BINS = 2048
# Values of a tensor and positions of a layer sampled per image: enough for a histogram and a covariance.
_VALUES = 60_000
_POSITIONS = 100
# Tensors with less than this extent are all zero: float32 cannot divide it into bins.
_MIN_EXTENT = 1e-30
# Fractions of the extent to try as a range: clipping rare values allows finer steps.
_FRACTIONS = np.linspace(0.3, 1.0, 36)
# Memory that second moments may take at once, in bytes.
_MOMENT_BYTES = 400_000_000
BATCH = 2  # images
MAX_INPUTS = 5000  # of a layer's output; beyond, second moments cost more than they bring (VGG's first linear layer)


@dataclass(frozen=True)
class Extent:
    """Smallest and largest value of a tensor, for each channel (C,)."""

    low: Array
    high: Array


def run(
    model: onnx.ModelProto, images: Pixels, names: Sequence[str], task: str = "", progress: Progress = silent
) -> Iterator[dict[str, Array]]:
    """Run the model and yield the named tensors of each batch; progress is reported as `task`."""
    runtime = session(add_outputs(model, names))
    for start in range(0, len(images), BATCH):
        progress(task, start, len(images))
        yield dict(zip(names, runtime.run(list(names), {INPUT: images[start : start + BATCH]}), strict=True))


def extents(graph: OnnxModel, images: Pixels, names: Sequence[str], progress: Progress = silent) -> dict[str, Extent]:
    """Compute the extents of tensors (N, C, …) over all images."""
    found: dict[str, Extent] = {}
    for tensors in run(graph.model, images, names, task="finding extents", progress=progress):
        for name, value in tensors.items():
            axes = (0, *range(2, value.ndim))
            low, high = value.min(axis=axes), value.max(axis=axes)
            if name in found:
                low, high = np.minimum(low, found[name].low), np.maximum(high, found[name].high)
            found[name] = Extent(low, high)
    return found


def ranges(
    graph: OnnxModel, images: Pixels, extent: dict[str, Extent], progress: Progress = silent
) -> dict[str, tuple[float, float]]:
    """Compute for each tensor the range whose clipping and rounding to 256 levels has the least squared error."""
    limits = {name: (float(e.low.min()), float(e.high.max())) for name, e in extent.items()}
    counts = {name: np.zeros(_BINS) for name in limits}
    for tensors in run(graph.model, images, list(limits), task="finding ranges", progress=progress):
        for name, value in tensors.items():
            low, high = limits[name]
            if high - low > _MIN_EXTENT:
                values = value.ravel()[:: max(1, value.size // (_VALUES * len(value))) | 1]
                # In float64: float32 has no 2,048 numbers between a gate's 0.5 and the next.
                counts[name] += np.histogram(values.astype(np.float64), _BINS, (low, high))[0]
    return {name: _best_range(*limits[name], counts[name]) for name in limits}


def _best_range(low: float, high: float, counts: Array) -> tuple[float, float]:
    if high - low <= _MIN_EXTENT:
        return low, high
    centres = low + (np.arange(_BINS) + 0.5) * (high - low) / _BINS
    best, least = (low, high), np.inf
    for start in low * _FRACTIONS if low < 0 else (0.0,):
        for stop in high * _FRACTIONS if high > 0 else (0.0,):
            rounded = Scale.of_range(start, stop).rounded(centres)
            error = float(counts @ (rounded - centres) ** 2)
            if error < least:
                best, least = (float(start), float(stop)), error
    return best


def num_groups(node: onnx.NodeProto) -> int:
    """Return the groups of a convolution; 1 for a linear layer."""
    return int(attribute(node, "group", 1))


def second_moments(
    graph: OnnxModel, images: Pixels, nodes: Sequence[onnx.NodeProto], progress: Progress = silent
) -> Iterator[tuple[onnx.NodeProto, Array]]:
    """Yield each layer with E[x xᵀ] (G, K, K) of its inputs x per group, in parts that bound memory."""
    parts = list(_split_by_memory(graph, nodes))
    for number, part in enumerate(parts):
        random = np.random.default_rng(0)
        names = sorted({node.input[0] for node in part})
        total: dict[str, Array] = {}
        samples = dict.fromkeys((node.name for node in part), 0)
        for batch, tensors in enumerate(run(graph.model, images, names)):
            progress("finding moments", number * len(images) + batch * BATCH, len(parts) * len(images))
            for node in part:
                x = _sample_inputs(graph, node, tensors[node.input[0]], random)
                total[node.name] = total.get(node.name, 0) + x.transpose(0, 2, 1) @ x
                samples[node.name] += x.shape[1]
        for node in part:
            yield node, total.pop(node.name) / np.float32(samples[node.name])


def _split_by_memory(graph: OnnxModel, nodes: Sequence[onnx.NodeProto]) -> Iterator[list[onnx.NodeProto]]:
    part: list[onnx.NodeProto] = []
    total = 0
    for node in nodes:
        needed = 4 * num_groups(node) * graph.weights[node.input[1]][0].size ** 2
        if part and total + needed > _MOMENT_BYTES:
            yield part
            part, total = [], 0
        part.append(node)
        total += needed
    if part:
        yield part


def _sample_inputs(graph: OnnxModel, node: onnx.NodeProto, value: Array, random: np.random.Generator) -> Array:
    """Sample the inputs of single outputs at random positions: (groups, samples, K), K as in the weights."""
    if node.op_type == "Gemm":
        return value[None]
    kernel = graph.weights[node.input[1]].shape[2:]
    top, left, bottom, right = attribute(node, "pads", [0] * 4)
    value = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right)))
    down, across = attribute(node, "strides", [1, 1])
    windows = np.lib.stride_tricks.sliding_window_view(value, kernel, (2, 3))[:, :, ::down, ::across]
    channels, height, width = windows.shape[1:4]
    taken = []
    for image in windows:
        at = random.choice(height * width, min(_POSITIONS, height * width), replace=False)
        taken.append(image[:, at // width, at % width])  # (C, samples, kh, kw)
    x = np.concatenate(taken, axis=1)
    groups = num_groups(node)
    x = x.reshape(groups, channels // groups, x.shape[1], -1).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(x.reshape(groups, x.shape[1], -1), np.float32)
