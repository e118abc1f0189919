"""A network and its card → one ONNX file that predicts without torch, written only after proof that it is equal.

`export("efficientnet_lite0", "lite0.onnx")`, or `vertebra export efficientnet_lite0 --out lite0.onnx`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from vertebra.card import METADATA_KEY, Card
from vertebra.models import ConvNet

from ._photos import Pixels, drawn_photos
from ._prepare import Prepared, prepare
from ._proof import prove
from ._trace import deployable, trace
from ._write import ExportError, check_target, write_whole

__all__ = ["ExportError", "ExportReport", "Prepared", "export", "prepare"]

# (what is being done, steps done, steps in all)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and what was found on the way."""

    path: Path
    card: Card
    size: int  # bytes
    max_difference: float  # of any probability between torch and the float graph
    timings: dict[str, float] = field(default_factory=dict)  # seconds a step


def export(
    model: ConvNet | Prepared | str | Path,
    out: str | os.PathLike[str],
    *,
    images: Sequence[Pixels] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ExportReport:
    """Write a network as one ONNX file.

    The graph takes `image`, uint8 (N, H, W, 3) RGB at the card's crop size, and gives `probabilities` (N, K),
    `embedding` (N, D), what the classifier sees, and `features` (N, C, h, w), the last feature map. Before anything is
    written it is compared with torch at batch sizes 1, 2 and 7.

    Args:
        model: a name, a path to a .pth or .safetensors file, a network, or what `prepare` returned.
        out: the file to write, ending in .onnx. A model there already is replaced once the new one is complete.
        images: pixels (H, W, 3) at the crop size to compare on. None: drawn ones.
        progress: called with what is being done, the steps done and the steps in all.
        options: as `prepare` takes them (weights, architecture, classes, …).

    Raises:
        UsageError: an argument is not allowed.
        WeightsError: the weights cannot be had or do not fit.
        ExportError: the graph differs from torch, or the file cannot be written. Nothing is left behind.
    """
    path = Path(out)
    check_target(path)
    tell = progress or (lambda what, done, total: None)
    timings: dict[str, float] = {}

    def timed(what: str, started: float) -> None:
        timings[what] = round(time.perf_counter() - started, 3)

    started = time.perf_counter()
    tell("loading", 0, 3)
    prepared = model if isinstance(model, Prepared) else prepare(model, **options)
    card = prepared.card
    network = deployable(prepared.network, card.preprocessing)
    timed("load", started)

    started = time.perf_counter()
    tell("tracing", 1, 3)
    graph = trace(network, card.preprocessing, card.temperature)
    onnx.checker.check_model(graph, full_check=True)
    timed("trace", started)

    started = time.perf_counter()
    tell("proving", 2, 3)
    if images is None or not len(images):
        images = list(drawn_photos(10, card.preprocessing.crop_size))
    difference = prove(graph.SerializeToString(), network, card.preprocessing, images, card.temperature)
    timed("prove", started)

    content = with_card(graph, card).SerializeToString()
    write_whole(path, content)
    tell("done", 3, 3)
    return ExportReport(path, card, len(content), difference, timings)


def with_card(graph: onnx.ModelProto, card: Card) -> onnx.ModelProto:
    """The model with the card in its metadata."""
    del graph.metadata_props[:]
    graph.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    return graph
