"""The end of every run: the exported classifier, its report and its figures."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save

from vertebra.card import Preprocessing, WeightSource, read_card
from vertebra.errors import printable
from vertebra.export import export, metadata, prepare
from vertebra.files import write_whole
from vertebra.models import ConvNet
from vertebra.progress import Progress
from vertebra.report import NOT_MEASURED, interval, percent, versions
from vertebra.units import counted

from .prepare import Calibration, Clock, Held
from .report import Curve, Report, described
from .run_folder import DATA, METRICS, MODEL, REPORT, SETTINGS, WEIGHTS, going_on, write_json, write_text
from .train_settings import Settings
from .trained_classifier import Classifier


@dataclass(frozen=True)
class Outcome:
    """What training has come to."""

    network: ConvNet
    names: tuple[str, ...]  # of the classes
    preprocessing: Preprocessing
    origin: WeightSource
    licence: str | None
    held: Held
    calibration: Calibration  # that is shipped
    found: Mapping[str, Any] | None  # by the audit, as `vertebra.data.findings` gives it
    body: Path | None = None  # an export of the same network with another head
    trials: Sequence[Any] = ()
    curves: Sequence[Curve] = ()
    notes: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)  # for metrics.json


def conclude(settings: Settings, folder: Path, outcome: Outcome, clock: Clock, tell: Progress) -> Classifier:
    """Export, report, and last of all the figures that say that the run is finished; each durable before the next.

    Raises:
        ExportError, TrainError: a file cannot be written, or does not give what the network gives.
    """
    held, m, wanted = outcome.held, outcome.held.measures, outcome.held.rejections[-1]
    with clock.step("exporting the classifier"):
        tell("exporting the classifier", 0, 1)
        measured = {
            "photos": m.n,
            "top1": m.top1,
            "top5": m.top5,
            "balanced_accuracy": m.balanced_accuracy,
            "ece": m.ece,
            "coverage": wanted.coverage,
            "precision": wanted.precision,
        }
        measures: dict[str, Any] = {
            name: value if isinstance(value, int) else round(value, 4)
            for name, value in measured.items()
            if value is not None
        }
        if not m.n:
            measures["top1"] = NOT_MEASURED
        if wanted.target > 0:
            what, _, found = str(wanted).partition(f" {wanted.target:g} ")
            measures[what] = f"{wanted.target:g} {found}"
        prepared = prepare(
            outcome.network,
            architecture=settings.model,
            classes=outcome.names,
            preprocessing=outcome.preprocessing,
            provenance=outcome.origin,
            metrics={f"{printable(settings.data)}, held out": measures},
            licence=outcome.licence,
            temperature=outcome.calibration.temperature,
            threshold=wanted.threshold,
        )
        with going_on(folder / MODEL):
            # A run that was killed here may have left a file, which is not to be refused.
            (folder / MODEL).unlink(missing_ok=True)
        export(prepared, folder / MODEL, body=outcome.body)
        with going_on(folder / WEIGHTS):
            write_whole(folder / WEIGHTS, save(outcome.network.state_dict(), metadata(prepared)))
    with clock.step("writing the report"):
        write_text(folder / REPORT, _report(settings, folder, outcome, clock).html(folder))
    figures = m.to_dict() | {
        "ece_before": held.ece_before,
        "temperature": outcome.calibration.temperature,
        "threshold": wanted.threshold,
        "target": asdict(wanted) | {"text": str(wanted), "why": wanted.why},
        "rejections": [asdict(entry) for entry in held.rejections[:-1]],
        "held_out": held.what,
        **outcome.figures,
        "notes": list(outcome.notes),
        "seconds": clock.seconds,
    }
    write_json(folder / METRICS, figures)
    return Classifier(folder)


def _report(settings: Settings, folder: Path, outcome: Outcome, clock: Clock) -> Report:
    card = read_card(folder / MODEL)
    m = outcome.held.measures
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
        held=outcome.held,
        decoding=outcome.preprocessing.decoding,
        threshold=outcome.held.rejections[-1].threshold,
        temperature=outcome.calibration.temperature,
        found=outcome.found,
        seconds=dict(clock.seconds),
        curves=outcome.curves,
        trials=outcome.trials,
        notes=outcome.notes,
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
