"""Write the outputs of a run: a fitted network and its metrics → files.

`model.onnx`, `weights.safetensors`, `report.html`, and last `metrics.json`, which marks the run as finished.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save

from vertebra.card import Card, Preprocessing, WeightSource, read_card
from vertebra.errors import printable
from vertebra.export import export, metadata, prepare
from vertebra.files import write_durably
from vertebra.models import ConvNet
from vertebra.progress import Progress
from vertebra.report import NOT_MEASURED, Chart, interval, package_versions, percent
from vertebra.units import counted

from .evaluation import EvaluatedPredictions
from .prepare import Timer
from .report_page import Report, describe_preprocessing
from .run_folder import DATA, METRICS, MODEL, REPORT, SETTINGS, WEIGHTS, resumable_write, write_json, write_text
from .train_settings import Settings


@dataclass(frozen=True)
class FittedNetwork:
    """A fitted network, ready for export."""

    network: ConvNet  # on the CPU
    names: tuple[str, ...]  # of the classes
    preprocessing: Preprocessing
    weights: WeightSource
    licence: str | None
    body: Path | None = None  # an export of the same network with another head


@dataclass(frozen=True)
class RunResult:
    """The results of a run, for its report and metrics.json."""

    held_out: EvaluatedPredictions
    found: Mapping[str, Any] | None  # from `vertebra.data.findings`
    trials: Sequence[Any] = ()  # of a probe's regularisation strengths
    curves: Sequence[Chart] = ()
    notes: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)  # further entries of metrics.json


def write_outputs(
    settings: Settings, folder: Path, fitted: FittedNetwork, result: RunResult, timer: Timer, progress: Progress
) -> None:
    """Write the files in order, each durable before the next."""
    with timer.step("exporting the classifier"):
        progress("exporting the classifier", 0, 1)
        _export(settings, folder, fitted, result.held_out)
    with timer.step("writing the report"):
        write_text(folder / REPORT, _report(settings, folder, result, timer.seconds).html(folder))
    held_out = result.held_out
    target = held_out.rejections[-1]
    metrics = held_out.metrics.to_dict() | {
        "ece_before": held_out.ece_before,
        "temperature": held_out.temperature,
        "threshold": target.threshold,
        "target": asdict(target) | {"text": str(target), "why": target.why},
        "rejections": [asdict(entry) for entry in held_out.rejections[:-1]],
        "held_out": held_out.description,
        **result.figures,
        "notes": list(result.notes),
        "seconds": timer.seconds,
    }
    write_json(folder / METRICS, metrics)


def _export(settings: Settings, folder: Path, fitted: FittedNetwork, held_out: EvaluatedPredictions) -> None:
    prepared = prepare(
        fitted.network,
        architecture=settings.model,
        classes=fitted.names,
        preprocessing=fitted.preprocessing,
        provenance=fitted.weights,
        metrics={f"{printable(settings.data)}, held out": _card_metrics(held_out)},
        licence=fitted.licence,
        temperature=held_out.temperature,
        threshold=held_out.rejections[-1].threshold,
    )
    with resumable_write(folder / MODEL):
        # A run that was killed here may have left the file, which `export` would reject.
        (folder / MODEL).unlink(missing_ok=True)
    export(prepared, folder / MODEL, body=fitted.body)
    with resumable_write(folder / WEIGHTS):
        write_durably(folder / WEIGHTS, save(fitted.network.state_dict(), metadata(prepared)))


def _card_metrics(held_out: EvaluatedPredictions) -> dict[str, Any]:
    m, target = held_out.metrics, held_out.rejections[-1]
    measured = {
        "photos": m.n,
        "top1": m.top1,
        "top5": m.top5,
        "balanced_accuracy": m.balanced_accuracy,
        "ece": m.ece,
        "coverage": target.coverage,
        "precision": target.precision,
    }
    found: dict[str, Any] = {
        name: value if isinstance(value, int) else round(value, 4)
        for name, value in measured.items()
        if value is not None
    }
    if not m.n:
        found["top1"] = NOT_MEASURED
    if target.target > 0:
        what, _, reached = str(target).partition(f" {target.target:g} ")
        found[what] = f"{target.target:g} {reached}"
    return found


def weight_source(pretrained: Card | None, what: str, parts: Iterable[bytes]) -> WeightSource:
    """Return the card's record of where the weights come from, with the SHA-256 of `parts`.

    `pretrained` is the card of the network that training started from; None: random weights.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    source = pretrained.weights if pretrained is not None else None
    name = source.name if source is not None else "random weights"
    return WeightSource(f"{name}, {what}", digest.hexdigest(), None)


def _report(settings: Settings, folder: Path, result: RunResult, seconds: Mapping[str, float]) -> Report:
    """Build the report of a run, whose `model.onnx` has been exported."""
    card = read_card(folder / MODEL)
    preprocessing = describe_preprocessing(card.preprocessing)
    held_out = result.held_out
    m = held_out.metrics
    five = "" if m.top5 is None else f", top-5 accuracy {percent(m.top5)}"
    place = shlex.quote(str(folder))
    hashes = {
        f"{MODEL}, SHA-256 as in its card": card.content_sha256,
        f"{DATA}, SHA-256 (it has that of each photo)": hashlib.sha256((folder / DATA).read_bytes()).hexdigest(),
        "weights": "randomly initialised" if card.weights is None else card.weights.name,
        "weights, SHA-256": card.weights.sha256 if card.weights is not None else None,
        "made": card.created,
    }
    return Report(
        title=f"{settings.model} on {settings.data}",
        kind="Training report",
        summary=(
            f"{counted(m.n, 'held-out photo')} of {counted(len(m.classes), 'class')}: top-1 accuracy "
            f"{percent(m.top1)} (95 % interval {interval(m.top1_interval)}){five}."
            if m.n
            else f"A classifier of {counted(len(m.classes), 'class')}, whose accuracy is not measured."
        ),
        held=held_out,
        decoding=card.preprocessing.decoding,
        threshold=held_out.rejections[-1].threshold,
        temperature=held_out.temperature,
        found=result.found,
        seconds=seconds,
        curves=result.curves,
        trials=result.trials,
        notes=result.notes,
        commands=[
            ("This command trains it again:", f"vertebra train --config {place}/{SETTINGS} --out AGAIN"),
            (
                "The classifier predicts, is measured and is served by:",
                f"vertebra predict PHOTO --model {place}/{MODEL}\n"
                f"vertebra evaluate {place} DATA\n"
                f"vertebra serve {place}/{MODEL}",
            ),
        ],
        facts={**settings.shown(), "preprocessing": preprocessing, "started in": str(Path.cwd())},
        versions=package_versions("torch", "numpy", "pillow", "onnxruntime") | dict(card.versions),
        hashes={name: value for name, value in hashes.items() if value},
    )
