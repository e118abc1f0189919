"""Which layers may be quantised, with the ranges and rounded weights for any choice of them.

`int8` chooses among them by the accuracy that is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from vertebra.pixels import Pixels
from vertebra.progress import Progress

from .activation_pass import ActivationPass
from .activation_ranges import ExtentObserver, HistogramObserver
from .input_fusion import fuse_normalisation, normalisation, normalised_range
from .onnx_model import Array, OnnxModel
from .qdq_writer import QUANTISABLE, Scale, Writer
from .second_moments import MAX_INPUTS, MomentObserver, num_groups, split_by_memory
from .weight_rounding import best_levels, nearest_levels, weight_scales


@dataclass(frozen=True)
class Plan:
    """All that is needed to write the graph with any layers in int8."""

    graph: OnnxModel  # weights rounded
    floats: OnnxModel  # as they were, for layers that stay float
    ranges: dict[str, tuple[float, float]]
    weight_scales: dict[str, Array]
    candidates: tuple[str, ...]  # nodes that can be in int8

    def write(self, kept_float: Iterable[str] = ()) -> onnx.ModelProto:
        """The model with all candidates but these in int8."""
        kept = set(kept_float)
        chosen = {name for name in self.candidates if name not in kept}
        graph = self.graph.copy()
        names = [node.input[1] for node in graph.weighted() if node.name not in chosen]
        graph.set_weights({name: self.floats.weights[name] for name in names})
        model = fuse_normalisation(Writer(graph, self.ranges, self.weight_scales, _connected(graph, chosen)).model())
        onnx.checker.check_model(model, full_check=True)
        return model


def prepare_plan(floats: OnnxModel, images: Pixels, progress: Progress) -> Plan:
    """Ranges of activations, scales of weights, and the weights rounded to their levels."""
    graph = floats.copy()
    candidates = quantisable(graph)
    layers = [node for node in graph.weighted() if node.name in candidates]
    names = _int8_tensors(graph, candidates)
    small = [node for node in layers if floats.weights[node.input[1]][0].size <= MAX_INPUTS]
    parts = split_by_memory(floats, small)

    passes = ActivationPass(floats, images, names)
    extents = ExtentObserver(names)
    passes.observe([extents], "finding extents", progress)
    histograms, moments = HistogramObserver(extents.extents), MomentObserver(floats, parts[0])
    passes.observe([histograms, moments], "finding ranges", progress)
    found = histograms.ranges()
    found.pop(next(node.input[0] for node in graph.nodes if node.op_type == "Softmax"), None)

    image, *steps = normalisation(floats)
    found[image] = normalised_range(*steps)

    scales: dict[str, Array] = {}
    changed: dict[str, Array] = {}

    def round_layer(node: onnx.NodeProto, moment: Array | None) -> None:
        progress("rounding", len(changed), len(layers))
        name, source = node.input[1], node.input[0]
        weight = floats.weights[name]
        scale = weight_scales(weight, num_groups(node), extents.extents[source], Scale.of_range(*found[source]))
        scales[name] = scale
        changed[name] = nearest_levels(weight, scale) if moment is None else best_levels(weight, scale, moment)

    for number, part in enumerate(parts):
        if number:
            moments = MomentObserver(floats, part)
            passes.observe([moments], "finding moments", progress)
        for node, moment in moments.moments():
            round_layer(node, moment)
    for node in layers:
        if node not in small:
            round_layer(node, None)
    graph.set_weights(changed)
    return Plan(graph, floats, found, scales, tuple(candidates))


def quantisable(graph: OnnxModel) -> list[str]:
    """Nodes that can be in int8: what has integer kernels, less normalisation, logits' softmax and small branches."""
    excluded = _excitation_layers(graph) | {node.name for node in graph.before_first_layer()}
    return [node.name for node in graph.nodes if node.op_type in QUANTISABLE and node.name not in excluded]


def _excitation_layers(graph: OnnxModel) -> set[str]:
    """The small layers of squeeze-excitation, between pooling and the product with the map.

    They work on one pixel: int8 saves nothing there, and each step's rounding scales whole channels.
    """
    found: set[str] = set()
    for pool in graph.nodes:
        if pool.op_type != "GlobalAveragePool":
            continue
        branch: set[str] = set()
        tensors, front = {pool.output[0]}, [pool.output[0]]
        while front:
            for node in graph.consumers.get(front.pop(), []):
                inside = all(name in tensors or name in graph.weights for name in node.input)
                # SiLU multiplies inside the branch, once both of its factors are known to be.
                if node.name in branch or not (inside and node.op_type in ("Conv", "Sigmoid", "Mul", "Relu")):
                    continue
                branch.add(node.name)
                tensors.add(node.output[0])
                front.append(node.output[0])
        found |= branch
    return found


def _int8_tensors(graph: OnnxModel, candidates: Sequence[str]) -> list[str]:
    """Tensors in int8: the inputs and outputs of these nodes."""
    chosen = set(candidates)
    names: dict[str, None] = {}
    for node in graph.nodes:
        if node.name in chosen:
            names |= dict.fromkeys(name for name in node.input if name not in graph.weights)
            names[graph.result(node)] = None
    # What is between a layer and its ReLU is no tensor of the int8 graph.
    return [name for name in names if name in graph.producer]


def _connected(graph: OnnxModel, chosen: set[str]) -> set[str]:
    """Leave out pooling, additions and the like whose inputs are float: int8 would gain nothing there."""
    result = set(chosen)
    for node in graph.nodes:
        if node.name in result and node.op_type in ("MaxPool", "Concat", "Flatten", "Sigmoid", "Mul", "Add"):
            makers = [graph.producer.get(name) for name in node.input if name not in graph.weights]
            makers = [
                graph.producer[m.input[0]] if m is not None and m.op_type in ("Relu", "Clip") else m for m in makers
            ]
            if not any(maker is not None and maker.name in result for maker in makers):
                result.discard(node.name)
    return result
