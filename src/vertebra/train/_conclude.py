"""The end of every run: the exported classifier, its report and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save

from vertebra.card import Preprocessing, WeightSource, read_card
from vertebra.export import export, prepare
from vertebra.files import replacing
from vertebra.models import ConvNet

from ._classifier import Classifier
from ._report import Report, interval, percent
from ._run import METRICS, MODEL, REPORT, WEIGHTS, Clock, Held, Tell, write_json, write_text
from ._settings import Settings


@dataclass(frozen=True)
class Outcome:
    """What training has come to."""

    network: ConvNet
    names: tuple[str, ...]  # of the classes
    preprocessing: Preprocessing
    origin: WeightSource
    licence: str | None
    held: Held
    threshold: float | None
    audit: str  # HTML
    body: Path | None = None  # an export of the same network with another head
    trials: Sequence[Any] = ()
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)  # for metrics.json


def conclude(settings: Settings, folder: Path, outcome: Outcome, clock: Clock, tell: Tell) -> Classifier:
    """Export, report, and last of all the figures that say that the run is finished.

    Raises:
        ExportError, TrainError: a file cannot be written, or does not give what the network gives.
    """
    held, m = outcome.held, outcome.held.measures
    with clock.step("exporting the classifier"):
        tell("exporting the classifier", 0, 1)
        measured = {
            "photos": m.n,
            "top1": round(m.top1, 4),
            "top5": round(m.top5, 4),
            "balanced_accuracy": round(m.balanced_accuracy, 4),
            "ece": round(m.ece, 4),
        }
        prepared = prepare(
            outcome.network,
            architecture=settings.model,
            classes=outcome.names,
            preprocessing=outcome.preprocessing,
            provenance=outcome.origin,
            metrics={f"{settings.data}, held out": measured},
            licence=outcome.licence,
            temperature=held.temperature,
            threshold=outcome.threshold or None,  # 0 is no threshold
        )
        # A run that was killed here may have left a file, which is not to be refused.
        (folder / MODEL).unlink(missing_ok=True)
        export(prepared, folder / MODEL, body=outcome.body)
        with replacing(folder / WEIGHTS) as temporary:
            temporary.write_bytes(save(outcome.network.state_dict()))
    with clock.step("writing the report"):
        write_text(folder / REPORT, _report(settings, folder, outcome, clock).html())
    figures = m.to_dict() | {
        "ece_before": held.ece_before,
        "temperature": held.temperature,
        "threshold": outcome.threshold,
        "rejections": [asdict(entry) for entry in held.rejections],
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
    return Report(
        title=f"{settings.model} on {settings.data}",
        summary=(
            f"{m.n:,} photos of {len(m.classes)} classes that it had not seen: {percent(m.top1)} right "
            f"({interval(m.top1_interval)}){f', {percent(m.top5)} among the first five' if len(m.classes) > 5 else ''}."
        ),
        held=outcome.held,
        threshold=outcome.threshold,
        facts={
            **settings.shown(),
            "weights from": card.weights.name if card.weights is not None else "drawn at random",
            "preprocessing": str(card.preprocessing),
            "versions": ", ".join(f"{name} {number}" for name, number in card.versions.items()),
            "made": card.created or "",
        },
        audit=outcome.audit,
        seconds=dict(clock.seconds),
        curves=outcome.curves,
        trials=outcome.trials,
        notes=outcome.notes,
    )
