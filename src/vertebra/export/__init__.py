"""A network and its card → one ONNX file that predicts without torch, written only after proof that it is equal.

With photos to calibrate on the file is int8: smaller and faster, and written only if it keeps its accuracy.

`vertebra.export("efficientnet_lite0", "lite0.onnx")`, or `vertebra export efficientnet_lite0 --out lite0.onnx`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vertebra.callable_module import make_callable
from vertebra.card import METADATA_KEY, Card
from vertebra.errors import UsageError, needing
from vertebra.model_checksum import BLANK, checked_card, with_checksum
from vertebra.progress import Progress, silent

with needing("torch", "vertebra.export"):
    import onnx
    from torch import nn

from vertebra.pixels import Pixels
from vertebra.synthetic_photos import synthetic_photos

from .accuracy_check import Calibration, Verdict, check_count, labels_of, points
from .classifier_swap import with_classifier
from .deployed_network import trace
from .int8 import Int8Report, quantise
from .network_card import Prepared, class_names
from .observed_network import Observed, deployable
from .prepare_network import metadata, prepare, with_precision
from .torch_check import prove
from .write_file import ExportError, check_target, write_model

__all__ = [
    "Calibration",
    "ExportError",
    "ExportReport",
    "Int8Report",
    "Prepared",
    "Verdict",
    "check_count",
    "class_names",
    "export",
    "labels_of",
    "metadata",
    "prepare",
]

# (what is being done, steps done, steps in all)


@dataclass(frozen=True)
class ExportReport:
    """What was written, and what was found on the way."""

    path: Path
    card: Card
    size: int  # bytes
    max_difference: float  # of any probability between torch and the float graph
    timings: dict[str, float] = field(default_factory=dict)  # seconds a step
    int8: Int8Report | None = None


def export(
    model: nn.Module | Prepared | str | Path,
    out: str | os.PathLike[str],
    *,
    images: Sequence[Pixels] | None = None,
    calibration: Calibration | None = None,
    max_drop: float = 1.0,
    force: bool = False,
    require_proof: bool = False,
    progress: Progress = silent,
    body: str | os.PathLike[str] | None = None,
    **options: Any,
) -> ExportReport:
    """Write a network as one ONNX file.

    The graph takes `image`, uint8 (N, H, W, 3) RGB at the card's crop size, and gives `probabilities` (N, K),
    `embedding` (N, D), what the classifier sees, and `features` (N, C, h, w), the last feature map. Before anything is
    written it is compared with torch at batch sizes 1, 2 and 7.

    Args:
        model: a name, a path to a .pth or .safetensors file, any `nn.Module` that classifies, or what `prepare`
            returned.
        out: the file to write, ending in .onnx. A model there already is replaced once the new one is complete.
        images: pixels (H, W, 3) at the crop size to compare on. None: drawn ones.
        calibration: photos to quantise by; with them the file is int8, and otherwise float32.
        max_drop: points of accuracy that int8 may lose.
        force: write an int8 file also where it is shown to lose more, or is slower than float.
        require_proof: write one only where the photos show, with 95 % confidence, that it loses no more.
        progress: called with what is being done, the steps done and the steps in all.
        body: an exported file of the same network with another classifier. Its graph is taken, which saves tracing the
            network; the proof shows a body that is another one.
        options: as `prepare` takes them (weights, architecture, classes, …).

    Raises:
        UsageError: an argument is not allowed.
        WeightsError: the weights cannot be had or do not fit.
        ExportError: the graph differs from torch, int8 loses too much, is not proven not to, or is not faster, or the
            file cannot be written. Nothing is left behind.
    """
    path = Path(out)
    if max_drop < 0:
        raise UsageError(f"max_drop is {max_drop}; it is points of accuracy, 0 or more.")
    if require_proof and (force or calibration is None):
        raise UsageError(
            "require_proof writes an int8 file only where its loss is shown to be small: it needs calibration, and "
            "cannot go with force. Leave one out."
        )
    check_target(path)
    timings: dict[str, float] = {}

    def timed(what: str, started: float) -> None:
        timings[what] = round(time.perf_counter() - started, 3)

    started = time.perf_counter()
    progress("loading", 0, 3)
    prepared = model if isinstance(model, Prepared) else prepare(model, **options)
    card = prepared.card
    network = deployable(prepared.network, card.preprocessing)
    timed("load", started)

    started = time.perf_counter()
    progress("tracing", 1, 3)
    if body is None:
        graph = trace(network, card.preprocessing, card.temperature)
    else:
        if isinstance(network, Observed):
            raise UsageError("body= is for our own networks. Export this one without it.")
        checked_card(body)
        graph = with_classifier(onnx.load(body), network.get_classifier(), card.temperature)
    onnx.checker.check_model(graph, full_check=True)
    timed("trace", started)

    started = time.perf_counter()
    progress("proving", 2, 3)
    if images is None or not len(images):
        images = list(synthetic_photos(10, card.preprocessing.crop_size))
    difference = prove(graph.SerializeToString(), network, card, images)
    timed("prove", started)

    quantised = None
    if calibration is not None:
        started = time.perf_counter()
        graph, quantised = quantise(
            graph,
            calibration,
            max_drop=max_drop,
            classes=card.classes,
            force=force,
            require_proof=require_proof,
            progress=progress,
        )
        card = with_precision(card, "int8", {"int8 beside float32": _measured(quantised)})
        timed("quantise", started)

    content, digest = with_checksum(with_card(graph, card).SerializeToString())
    write_model(path, content)
    progress("done", 3, 3)
    return ExportReport(path, replace(card, content_sha256=digest), len(content), difference, timings, quantised)


def _measured(report: Int8Report) -> dict[str, Any]:
    """For the card: scores and agreement in %, losses in points, each interval with 95 % confidence."""
    verdict = report.verdict
    low, high = (round(end, 2) for end in verdict.drop_interval)
    return {
        "photos": verdict.photos,
        "measure": verdict.measure,
        "float32": round(verdict.float_score, 2),
        "int8": round(verdict.int8_score, 2),
        "agreement": round(verdict.agreement, 2),
        "agreement interval": [round(end, 2) for end in verdict.agreement_interval],
        "loss" if verdict.measure == "accuracy" else "expected loss": round(verdict.drop, 2),
        **({"loss interval": [low, high]} if verdict.measure == "accuracy" else {"largest loss": high}),
        f"at most {points(report.max_drop)} lost": report.claim,
        "KL divergence": round(verdict.divergence, 5),
        "float32 ms": round(report.float_ms, 2),
        "int8 ms": round(report.int8_ms, 2),
    }


def with_card(graph: onnx.ModelProto, card: Card) -> onnx.ModelProto:
    """The model with the card in its metadata, which has room for the checksum of the file."""
    del graph.metadata_props[:]
    graph.metadata_props.add(key=METADATA_KEY, value=replace(card, content_sha256=BLANK).to_json())
    return graph


make_callable(__name__)
