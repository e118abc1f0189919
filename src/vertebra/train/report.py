"""The step `report` of a run: its result → `report.html`, and `metrics.json`, which says that the run is finished."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vertebra.card import read_card
from vertebra.report import interval, percent, versions
from vertebra.units import counted

from .evaluation import RunEvaluation
from .report_page import Curve, Report, described
from .run_folder import DATA, METRICS, MODEL, REPORT, SETTINGS, write_json, write_text
from .train_settings import Settings


@dataclass(frozen=True)
class RunResult:
    """What the steps before have found."""

    evaluation: RunEvaluation
    found: Mapping[str, Any] | None  # by the audit, as `vertebra.data.findings` gives it
    trials: Sequence[Any] = ()  # strengths of a probe's regularisation
    curves: Sequence[Curve] = ()
    notes: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)  # of the method, for metrics.json


def write_report(settings: Settings, folder: Path, result: RunResult, seconds: Mapping[str, float]) -> None:
    """Write the page, beside the exported classifier.

    Raises:
        TrainError: it cannot be written.
    """
    write_text(folder / REPORT, report_of(settings, folder, result, seconds).html(folder))


def write_metrics(folder: Path, result: RunResult, seconds: Mapping[str, float]) -> None:
    """Write every figure of the report, last of all.

    Raises:
        TrainError: the file cannot be written.
    """
    held_out = result.evaluation.held_out
    target = held_out.rejections[-1]
    metrics = held_out.metrics.to_dict() | {
        "ece_before": held_out.ece_before,
        "temperature": result.evaluation.temperature,
        "threshold": target.threshold,
        "target": asdict(target) | {"text": str(target), "why": target.why},
        "rejections": [asdict(entry) for entry in held_out.rejections[:-1]],
        "held_out": held_out.description,
        **result.figures,
        "notes": list(result.notes),
        "seconds": seconds,
    }
    write_json(folder / METRICS, metrics)


def report_of(settings: Settings, folder: Path, result: RunResult, seconds: Mapping[str, float]) -> Report:
    """The page of a run, whose `model.onnx` has been exported."""
    card = read_card(folder / MODEL)
    held_out = result.evaluation.held_out
    m = held_out.metrics
    five = "" if m.top5 is None else f", top-5 accuracy {percent(m.top5)}"
    place = shlex.quote(str(folder))
    hashes = {
        f"{MODEL}, SHA-256 as in its card": card.content_sha256 or "",
        f"{DATA}, SHA-256 (it has that of each photo)": hashlib.sha256((folder / DATA).read_bytes()).hexdigest(),
        "weights": "randomly initialised" if card.weights is None else card.weights.name,
        "weights, SHA-256": (card.weights.sha256 if card.weights is not None else None) or "",
        "made": card.created or "",
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
        temperature=result.evaluation.temperature,
        found=result.found,
        seconds=dict(seconds),
        curves=result.curves,
        trials=result.trials,
        notes=result.notes,
        commands=[
            (
                "This command trains it again:",
                f"vertebra train --config {place}/{SETTINGS} --out AGAIN",
            ),
            (
                "The classifier predicts, is measured and is served by:",
                f"vertebra predict PHOTO --model {place}/{MODEL}\n"
                f"vertebra evaluate {place} DATA\n"
                f"vertebra serve {place}/{MODEL}",
            ),
        ],
        facts={**settings.shown(), "preprocessing": described(card.preprocessing)} | {"started in": str(Path.cwd())},
        versions=versions("torch", "numpy", "pillow", "onnxruntime") | dict(card.versions),
        hashes={name: value for name, value in hashes.items() if value},
    )
