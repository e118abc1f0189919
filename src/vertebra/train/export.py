"""The step `export` of a run: a fitted network and its metrics → `model.onnx` and `weights.safetensors`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from vertebra.card import Card, Preprocessing, WeightSource
from vertebra.errors import printable
from vertebra.export import export, metadata, prepare
from vertebra.files import write_whole
from vertebra.models import ConvNet
from vertebra.report import NOT_MEASURED

from .evaluation import RunEvaluation
from .run_folder import MODEL, WEIGHTS, resumable_write
from .train_settings import Settings


@dataclass(frozen=True)
class FittedNetwork:
    """What the step `fit` of a run gives to `export`."""

    network: ConvNet  # on the CPU
    names: tuple[str, ...]  # of the classes
    preprocessing: Preprocessing
    weights: WeightSource
    licence: str | None
    body: Path | None = None  # an export of the same network with another head


def export_run(settings: Settings, folder: Path, fitted: FittedNetwork, evaluation: RunEvaluation) -> None:
    """Write the classifier and its weights, each durable before the next.

    Raises:
        ExportError, TrainError: a file cannot be written, or does not give what the network gives.
    """
    prepared = prepare(
        fitted.network,
        architecture=settings.model,
        classes=fitted.names,
        preprocessing=fitted.preprocessing,
        provenance=fitted.weights,
        metrics={f"{printable(settings.data)}, held out": card_metrics(evaluation)},
        licence=fitted.licence,
        temperature=evaluation.temperature,
        threshold=evaluation.held_out.rejections[-1].threshold,
    )
    with resumable_write(folder / MODEL):
        # A run that was killed here may have left a file, which is not to be refused.
        (folder / MODEL).unlink(missing_ok=True)
    export(prepared, folder / MODEL, body=fitted.body)
    with resumable_write(folder / WEIGHTS):
        write_whole(folder / WEIGHTS, save(fitted.network.state_dict(), metadata(prepared)))


def card_metrics(evaluation: RunEvaluation) -> dict[str, Any]:
    """The metrics that the card of an exported file has."""
    m, target = evaluation.held_out.metrics, evaluation.held_out.rejections[-1]
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
    """What the card says of where the weights came from.

    Args:
        pretrained: the card of the network that training started from; None: random weights.
        what: was trained, on what.
        parts: that the SHA-256 is of.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    source = pretrained.weights if pretrained is not None else None
    name = source.name if source is not None else "random weights"
    return WeightSource(f"{name}, {what}", digest.hexdigest(), None)
