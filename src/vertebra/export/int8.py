"""A float graph → the best int8 graph that the photos and this machine allow, with what it costs and what it saves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from vertebra.pixels import Pixels
from vertebra.progress import Progress, silent

from .accuracy_check import Calibration, Verdict, check_order, folder_size, judge, points
from .activation_ranges import MAX_INPUTS, extents, groups_of, moments, ranges
from .deployed_network import INPUT, OUTPUTS
from .input_fusion import byte_range, in_bytes, normalisation
from .onnx_model import Array, OnnxModel
from .qdq_writer import QUANTISABLE, Scale, Writer
from .torch_check import session
from .weight_rounding import best_levels, bias_change, nearest_levels, weight_scales
from .write_file import ExportError

_BLOCK_RUNS = 8
_SCREENED = 24  # photos by which single layers are compared


@dataclass(frozen=True)
class Int8Report:
    """What int8 costs in accuracy and saves in time and size."""

    calibrated_on: int  # photos that set the ranges and the rounding
    chosen_on: int  # others, that said which layers go back to float
    verdict: Verdict  # on others still
    max_drop: float  # points of accuracy that may be lost
    float_ms: float  # median at batch size 1 on this machine
    int8_ms: float
    float_bytes: int
    int8_bytes: int
    kept_float: tuple[str, ...]  # layers put back because they cost accuracy

    @property
    def ship(self) -> str:
        """Which of the two to use on this machine: "int8" or "float32"."""
        return "int8" if self.int8_ms < self.float_ms else "float32"

    @property
    def claim(self) -> str:
        """What the photos show of a loss of at most `max_drop` points."""
        return self.verdict.claim(self.max_drop)


@dataclass(frozen=True)
class Plan:
    """All that is needed to write the graph with any layers in int8."""

    graph: OnnxModel  # weights rounded, biases corrected
    floats: OnnxModel  # as they were, for layers that stay float
    ranges: dict[str, tuple[float, float]]
    weight_scales: dict[str, Array]
    candidates: tuple[str, ...]  # nodes that can be in int8

    def write(self, kept_float: Iterable[str] = ()) -> onnx.ModelProto:
        """The model with all candidates but these in int8."""
        kept = set(kept_float)
        chosen = {name for name in self.candidates if name not in kept}
        graph = self.graph.copy()
        names = [n for node in graph.weighted() if node.name not in chosen for n in node.input[1:]]
        # A bias that is not among the float weights was added for the correction.
        graph.set_weights({n: self.floats.weights.get(n, np.zeros_like(graph.weights[n])) for n in names})
        model = in_bytes(Writer(graph, self.ranges, self.weight_scales, _connected(graph, chosen)).model())
        onnx.checker.check_model(model, full_check=True)
        return model


def quantise(
    model: onnx.ModelProto,
    calibration: Calibration,
    *,
    max_drop: float,
    classes: Sequence[str] | None,
    force: bool,
    require_proof: bool,
    progress: Progress,
) -> tuple[onnx.ModelProto, Int8Report]:
    """The int8 model that loses at most `max_drop` points, and what was found.

    Ranges, the choice of layers and the judgement rest on three parts of the photos that have none in common.

    Raises:
        UsageError: too few photos, or labels in another order than the classes.
        ExportError: int8 is shown to lose more than is allowed, or is not faster; with `force`, such a model is
            returned. With `require_proof`, also where the photos do not show that it loses at most that.
    """
    images, choosing, judging = calibration.split()
    floats = session(model.SerializeToString())
    expected, wanted = (predict(floats, part.images, "predicting in float32", progress) for part in (choosing, judging))
    if choosing.labels is not None and judging.labels is not None:
        answers = np.concatenate([expected, wanted]).argmax(1)
        check_order(answers, [*choosing.labels, *judging.labels], classes)
    plan = prepare_plan(OnnxModel(model), images, progress)
    quantised, kept = _good_enough(plan, choosing, expected, max_drop, progress)
    content = quantised.SerializeToString()
    ready = session(content)
    verdict = judge(wanted, predict(ready, judging.images, "judging", progress), judging.labels)
    progress("timing", 0, 1)
    float_ms, int8_ms = time_sessions([floats, ready], judging.images[:1])
    report = Int8Report(
        calibrated_on=len(images),
        chosen_on=len(choosing.images),
        verdict=verdict,
        max_drop=max_drop,
        float_ms=float_ms,
        int8_ms=int8_ms,
        float_bytes=model.ByteSize(),
        int8_bytes=len(content),
        kept_float=tuple(kept),
    )
    problem = _problem(report)
    if problem and not force:
        raise ExportError(f"{problem} Nothing was written; --force writes it all the same.")
    if require_proof and not verdict.shows(max_drop):
        raise ExportError(f"{_without_proof(report)} Nothing was written.")
    return quantised, report


def _problem(report: Int8Report) -> str | None:
    verdict = report.verdict
    if verdict.exceeds(report.max_drop):
        low, high = verdict.drop_interval
        return (
            f"int8 loses {verdict.drop:.1f} points on {verdict.photos} photos ({low:.1f} to {high:.1f} with 95 % "
            f"confidence; {verdict.measure} {verdict.int8_score:.1f} %, float {verdict.float_score:.1f} %), and "
            f"{report.max_drop:g} are allowed, although {len(report.kept_float)} layers were put back to float. Give "
            "more photos, allow a larger --max-drop, or ship the float file."
        )
    if report.ship != "int8":
        return (
            f"int8 takes {report.int8_ms:.2f} ms and float {report.float_ms:.2f} ms on this machine, so the float file "
            "is the one to ship."
        )
    return None


def _without_proof(report: Int8Report) -> str:
    needed = report.verdict.needed(report.max_drop)
    more = "" if needed is None else f" Give a folder of about {folder_size(needed):,} photos, or"
    remedy = f"{more} allow a larger --max-drop, or leave --require-proof out.".lstrip()
    return f"that int8 loses at most {points(report.max_drop)} is {report.claim}. {remedy[0].upper()}{remedy[1:]}"


# --- the plan -------------------------------------------------------------------------------------------------------


def prepare_plan(floats: OnnxModel, images: Pixels, progress: Progress) -> Plan:
    """Ranges, and weights rounded to their grids with the biases that make up for it."""
    graph = floats.copy()
    candidates = quantisable(graph)
    layers = [node for node in graph.weighted() if node.name in candidates]
    names = _held_tensors(graph, candidates)
    extent = extents(graph, images, names, progress)
    found = ranges(graph, images, extent, progress)
    found.pop(next(node.input[0] for node in graph.nodes if node.op_type == "Softmax"), None)

    image, *steps = normalisation(floats)
    found[image] = byte_range(*steps)

    scales: dict[str, Array] = {}
    changed: dict[str, Array] = {}
    done = 0
    for node, moment in _with_moments(floats, images, layers, progress):
        progress("rounding", done, len(layers))
        done += 1
        name = node.input[1]
        weight = floats.weights[name]
        source = node.input[0]
        scale = weight_scales(weight, groups_of(node), extent[source], Scale.of_range(*found[source]))
        scales[name] = scale
        if moment is None:
            changed[name] = nearest_levels(weight, scale)
            continue
        changed[name] = best_levels(weight, scale, moment)
        bias = _bias(graph, node)
        change = bias_change(weight, changed[name], moment.mean)
        changed[bias] = (floats.weights.get(bias, 0) + change).astype(np.float32)
    graph.set_weights(changed)
    return Plan(graph, floats, found, scales, tuple(candidates))


def _with_moments(
    graph: OnnxModel, images: Pixels, layers: Sequence[onnx.NodeProto], progress: Progress
) -> Iterable[tuple[Any, Any]]:
    small = [node for node in layers if graph.weights[node.input[1]][0].size <= MAX_INPUTS]
    yield from moments(graph, images, small, progress)
    yield from ((node, None) for node in layers if node not in small)


def _bias(graph: OnnxModel, node: onnx.NodeProto) -> str:
    """The name of a layer's bias, in a graph where each layer to be corrected has one."""
    own = next(other for other in graph.nodes if other.name == node.name)
    if len(own.input) < 3:
        name = f"{node.name}.bias"
        own.input.append(name)
        zeros = np.zeros(len(graph.weights[node.input[1]]), np.float32)
        graph.model.graph.initializer.append(onnx.numpy_helper.from_array(zeros, name))
    return str(own.input[2])


def quantisable(graph: OnnxModel) -> list[str]:
    """Nodes that can be in int8: what has integer kernels, less normalisation, logits' softmax and small branches."""
    preface = _before_first_layer(graph)
    branches = _excitations(graph)
    return [
        node.name
        for node in graph.nodes
        if node.op_type in QUANTISABLE and node.name not in preface and node.name not in branches
    ]


def _before_first_layer(graph: OnnxModel) -> set[str]:
    """The nodes from the input to the first convolution."""
    names = set()
    for node in graph.nodes:
        if node.op_type == "Conv":
            break
        names.add(node.name)
    return names


def _excitations(graph: OnnxModel) -> set[str]:
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


def _held_tensors(graph: OnnxModel, candidates: Sequence[str]) -> list[str]:
    """Tensors that are held in int8: what these nodes take and make."""
    chosen = set(candidates)
    names: dict[str, None] = {}
    for node in graph.nodes:
        if node.name in chosen:
            names |= dict.fromkeys(name for name in node.input if name not in graph.weights)
            names[graph.result(node)] = None
    # Between a layer and its ReLU nothing is held.
    return [name for name in names if name in graph.producer]


def _connected(graph: OnnxModel, chosen: set[str]) -> set[str]:
    """Less what only hands values on between float nodes: pooling in int8 there would buy nothing."""
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


# --- which layers ---------------------------------------------------------------------------------------------------


def _good_enough(
    plan: Plan, choosing: Calibration, expected: Array, max_drop: float, progress: Progress
) -> tuple[onnx.ModelProto, list[str]]:
    """Put layers back to float, those that hurt most first, until the loss on these photos is allowed."""

    def attempt(kept: list[str], progress: Progress) -> tuple[onnx.ModelProto, Verdict]:
        model = plan.write(kept)
        found = predict(session(model.SerializeToString()), choosing.images, "predicting in int8", progress)
        return model, judge(expected, found, choosing.labels)

    model, verdict = attempt([], progress)
    kept: list[str] = []
    if verdict.allows(max_drop):
        return model, kept
    ranking = _worst_first(plan, choosing.images[:_SCREENED], expected[:_SCREENED], progress)
    step = 1
    while ranking and not verdict.allows(max_drop):
        kept, ranking = kept + ranking[:step], ranking[step:]
        progress("putting layers back", len(kept), len(kept) + len(ranking))
        model, verdict = attempt(kept, silent)
        # Where single layers do not help soon, many will not be worth their time one by one.
        step = max(1, len(kept) // 2)
    return model, kept


def _worst_first(plan: Plan, images: Pixels, expected: Array, progress: Progress) -> list[str]:
    """Layers by how much nearer to float the network comes with only that layer in float."""
    layers = [node.name for node in plan.graph.weighted() if node.name in plan.candidates]
    gains = {}
    for i, name in enumerate(layers):
        progress("finding what hurts", i, len(layers))
        model = plan.write([name])
        found = predict(session(model.SerializeToString()), images)
        gains[name] = -judge(expected, found, None).divergence
    return sorted(layers, key=lambda name: -gains[name])


# --- running --------------------------------------------------------------------------------------------------------


def predict(
    runtime: ort.InferenceSession, images: Pixels, task: str = "", progress: Progress = silent, batch: int = 4
) -> Array:
    """Probabilities (N, K); `progress` counts the images under the name `task`."""
    parts = []
    for start in range(0, len(images), batch):
        progress(task, start, len(images))
        parts.append(runtime.run([OUTPUTS[0]], {INPUT: images[start : start + batch]})[0])
    return np.concatenate(parts)


def time_sessions(sessions: Sequence[ort.InferenceSession], image: Pixels, blocks: int = 6) -> list[float]:
    """Median milliseconds of each, in blocks taken in turns, so that a slow moment of the machine hits all alike."""
    taken: list[list[float]] = [[] for _ in sessions]
    for block in range(blocks):
        for index in range(len(sessions))[:: 1 if block % 2 else -1]:
            # The threads of the session before wait in a loop for a moment and would be in the way.
            time.sleep(0.02)
            for turn in range(_BLOCK_RUNS):
                started = time.perf_counter()
                sessions[index].run([OUTPUTS[0]], {INPUT: image})
                if turn >= 2:
                    taken[index].append((time.perf_counter() - started) * 1000)
    return [statistics.median(values) for values in taken]
