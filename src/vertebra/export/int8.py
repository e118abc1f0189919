"""A float graph → an int8 graph: layers that cost accuracy go back to float until it is kept, and a report is made.

Which layers can be in int8 at all is decided in `int8_plan`, their format in `qdq_writer`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort

from vertebra.errors import ExportError
from vertebra.pixels import Pixels
from vertebra.prefetch import in_order
from vertebra.progress import Progress, silent

from .accuracy_check import Calibration, Verdict, judge, min_folder_size, points
from .activation_pass import pass_threads
from .deployed_network import INPUT, OUTPUTS
from .int8_plan import Plan, prepare_plan
from .onnx_model import Array, OnnxModel
from .photo_labels import require_class_order
from .torch_check import session

_BATCH = 4  # photos
_BLOCKS, _BLOCK_RUNS = 6, 8
_SCREENED = 24  # photos on which single layers are ranked


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
    """Quantise a model so that it loses at most `max_drop` points; return it with its report.

    Ranges, the choice of layers and the final comparison use disjoint parts of the photos.

    Raises:
        UsageError: too few photos, or labels in another order than the classes.
        ExportError: int8 is shown to lose more than `max_drop`, or is not faster; `force` returns it all the same.
            With `require_proof`, also if the photos do not show that it loses at most that.
    """
    images, choosing, judging = calibration.split()
    floats = session(model.SerializeToString())
    expected, wanted = (predict(floats, part.images, "predicting in float32", progress) for part in (choosing, judging))
    if choosing.labels is not None and judging.labels is not None:
        answers = np.concatenate([expected, wanted]).argmax(1)
        require_class_order(answers, [*choosing.labels, *judging.labels], classes)
    plan = prepare_plan(OnnxModel(model), images, progress)
    quantised, ready, kept = _choose_layers(plan, choosing, expected, max_drop, progress)
    verdict = judge(wanted, predict(ready, judging.images, "evaluating int8", progress), judging.labels)
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
        int8_bytes=quantised.ByteSize(),
        kept_float=tuple(kept),
    )
    problem = _rejection_reason(report)
    if problem and not force:
        raise ExportError(f"{problem} Nothing was written; --force writes it all the same.")
    if require_proof and not verdict.shows(max_drop):
        raise ExportError(f"{_unproven_message(report)} Nothing was written.")
    return quantised, report


def _rejection_reason(report: Int8Report) -> str | None:
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


def _unproven_message(report: Int8Report) -> str:
    needed = report.verdict.needed(report.max_drop)
    more = "" if needed is None else f" Give a folder of about {min_folder_size(needed):,} photos, or"
    remedy = f"{more} allow a larger --max-drop, or leave --require-proof out.".lstrip()
    return f"that int8 loses at most {points(report.max_drop)} is {report.claim}. {remedy[0].upper()}{remedy[1:]}"


# --- which layers ---------------------------------------------------------------------------------------------------


def _choose_layers(
    plan: Plan, choosing: Calibration, expected: Array, max_drop: float, progress: Progress
) -> tuple[onnx.ModelProto, ort.InferenceSession, list[str]]:
    """Put layers back to float, the most harmful first, until the loss on these photos is allowed."""

    def attempt(kept: list[str], progress: Progress) -> tuple[onnx.ModelProto, ort.InferenceSession, Verdict]:
        model = plan.write(kept)
        ready = session(model.SerializeToString())
        found = predict(ready, choosing.images, "predicting in int8", progress)
        return model, ready, judge(expected, found, choosing.labels)

    model, ready, verdict = attempt([], progress)
    kept: list[str] = []
    if verdict.allows(max_drop):
        return model, ready, kept
    ranking = _rank_layers(plan, choosing.images[:_SCREENED], expected[:_SCREENED], progress)
    step = 1
    while ranking and not verdict.allows(max_drop):
        kept, ranking = kept + ranking[:step], ranking[step:]
        progress("reverting layers to float32", len(kept), len(kept) + len(ranking))
        model, ready, verdict = attempt(kept, silent)
        # If single layers do not help soon, put back more at a time.
        step = max(1, len(kept) // 2)
    return model, ready, kept


def _rank_layers(plan: Plan, images: Pixels, expected: Array, progress: Progress) -> list[str]:
    """Rank layers by how much closer to float the network gets with only that layer in float."""
    layers = [node.name for node in plan.graph.weighted() if node.name in plan.candidates]

    def divergence(names: Sequence[str]) -> list[float]:
        # One thread each: writing the model and loading it use only one.
        runtime = session(plan.write(names).SerializeToString(), threads=1)
        return [judge(expected, predict(runtime, images), None).divergence]

    divergences: dict[str, float] = {}
    with closing(in_order(layers, divergence, workers=pass_threads(), chunk=1)) as results:
        for name, found in zip(layers, results, strict=True):
            progress("ranking layers by sensitivity", len(divergences), len(layers))
            divergences[name] = found
    return sorted(layers, key=lambda name: divergences[name])


# --- running --------------------------------------------------------------------------------------------------------


def predict(runtime: ort.InferenceSession, images: Pixels, task: str = "", progress: Progress = silent) -> Array:
    """Return probabilities (N, K); progress is reported as `task`."""
    parts = []
    for start in range(0, len(images), _BATCH):
        progress(task, start, len(images))
        parts.append(runtime.run([OUTPUTS[0]], {INPUT: images[start : start + _BATCH]})[0])
    return np.concatenate(parts)


def time_sessions(sessions: Sequence[ort.InferenceSession], image: Pixels) -> list[float]:
    """Return the median milliseconds of each session, timed in interleaved blocks against drift of the machine."""
    taken: list[list[float]] = [[] for _ in sessions]
    for block in range(_BLOCKS):
        for index in range(len(sessions))[:: 1 if block % 2 else -1]:
            # Threads of the previous session spin for a moment and would disturb this one.
            time.sleep(0.02)
            for turn in range(_BLOCK_RUNS):
                started = time.perf_counter()
                sessions[index].run([OUTPUTS[0]], {INPUT: image})
                if turn >= 2:
                    taken[index].append((time.perf_counter() - started) * 1000)
    return [statistics.median(values) for values in taken]
