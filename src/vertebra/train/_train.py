"""`vertebra.train`: a folder of photos → a classifier and its report."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from vertebra._load import exported
from vertebra.card import read_card
from vertebra.data import open_dataset, sections
from vertebra.export import export, prepare

from ._calibrate import fit_temperature, rejection, softmax
from ._classifier import Classifier
from ._features import compute_features
from ._measure import Floats, Labels
from ._probe import Probe, fit_probe, provenance, with_head
from ._report import Report, interval, percent
from ._run import (
    DATA,
    METRICS,
    MODEL,
    REPORT,
    SETTINGS,
    WEIGHTS,
    Clock,
    Held,
    Labelled,
    Tell,
    data_table,
    default_folder,
    folds_of,
    judge,
    new_folder,
    usable_photos,
    write_json,
    write_text,
)
from ._settings import Settings


def train(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    tell: Tell = lambda what, done, total: None,
    **options: Any,
) -> Classifier:
    """Train a classifier on labelled photos.

    Args:
        data: class folders, a table, or a name, as `vertebra audit` takes them.
        out: the folder of the run, new or empty. None: a new one below `runs`.
        tell: called with what is being done, how much of it is done, and how much it has in all.
        options: the other fields of `Settings` (model, method, seed, …).

    Raises:
        UsageError: a setting is not allowed, or the folder is not empty.
        DataError: the photos cannot be used.
        TrainError: the run cannot go on.
    """
    settings = Settings.from_mapping({"data": os.fspath(data), **options}, "train()")
    folder = new_folder(Path(out) if out is not None else default_folder(settings.data, settings.model))
    return run_probe(settings, folder, tell)


def run_probe(settings: Settings, folder: Path, tell: Tell) -> Classifier:
    """The whole of a run by the method "probe"."""
    clock = Clock()
    write_text(folder / SETTINGS, settings.to_toml())
    with clock.step("finding the photos"):
        dataset = open_dataset(settings.data)
    with clock.step("exporting the pretrained network"):
        tell(f"exporting {settings.model}", 0, 1)
        body = exported(settings.model, settings.weights)
    with clock.step("decoding and computing features"):
        seen = compute_features(dataset, body, lambda done, total: tell("computing features", done, total))
    with clock.step("auditing"):
        photos = usable_photos(dataset, seen.facts, strict=settings.strict)
        page = sections(dataset, photos.audit)
    features, names = seen.features[photos.usable], photos.names
    test = np.array([photo.split == "test" for photo in photos.photos])
    pool = np.nonzero(~test)[0]
    with clock.step("fitting the head"):
        folds = folds_of(photos, pool.tolist(), settings)
        probe = fit_probe(
            features[pool], photos.labels[pool], folds, len(names), lambda done, of: tell("fitting", done, of)
        )
        temperature = fit_temperature(probe.logits, photos.labels[pool])
    with clock.step("measuring"):
        parts = len(set(folds.tolist()))
        what = f"each photo by a head fitted without its part, one of {parts}"
        held = _judged(what, photos, pool, probe.logits, temperature)
        calibrated = softmax(probe.logits / temperature)
        found = rejection(calibrated, photos.labels[pool], settings.precision)
        if test.any():
            places = np.nonzero(test)[0]
            held = _judged("the test photos", photos, places, probe.head.logits(features[places]), temperature)
    with clock.step("exporting the classifier"):
        tell("exporting the classifier", 0, 1)
        _export(settings, folder, body, probe, held, names, temperature, found.threshold)
    write_text(
        folder / DATA,
        data_table(photos.photos, photos.facts, ["test" if is_test else "train" for is_test in test.tolist()]),
    )
    with clock.step("writing the report"):
        report = _report(settings, folder, held, probe, page, clock, found.threshold)
        write_text(folder / REPORT, report.html())
    metrics = held.measures.to_dict() | {
        "ece_before": held.ece_before,
        "temperature": temperature,
        "threshold": found.threshold,
        "strength": probe.strength,
        "rejections": [asdict(entry) for entry in held.rejections],
        "held_out": held.what,
        "computed": seen.computed,
        "seconds": clock.seconds,
    }
    write_json(folder / METRICS, metrics)
    return Classifier(folder)


def _judged(what: str, photos: Labelled, places: Labels, logits: Floats, temperature: float) -> Held:
    chosen = [photos.photos[i] for i in places.tolist()]
    return judge(what, chosen, photos.labels[places], logits, temperature, photos.names)


def _export(
    settings: Settings,
    folder: Path,
    body: Path,
    probe: Probe,
    held: Held,
    names: tuple[str, ...],
    temperature: float,
    threshold: float | None,
) -> None:
    network = with_head(settings.model, settings.weights, probe.head)
    card = read_card(body)
    m = held.measures
    prepared = prepare(
        network,
        architecture=card.architecture,
        classes=names,
        preprocessing=card.preprocessing,
        provenance=provenance(body, probe.head, settings.data),
        metrics={
            f"{settings.data}, held out": {
                "photos": m.n,
                "top1": round(m.top1, 4),
                "top5": round(m.top5, 4),
                "balanced_accuracy": round(m.balanced_accuracy, 4),
                "ece": round(m.ece, 4),
            }
        },
        licence=card.licence,
        temperature=temperature,
        threshold=threshold or None,  # 0 is no threshold
    )
    export(prepared, folder / MODEL, body=body)
    save_file(network.state_dict(), folder / WEIGHTS)


def _report(
    settings: Settings, folder: Path, held: Held, probe: Probe, page: str, clock: Clock, threshold: float | None
) -> Report:
    card = read_card(folder / MODEL)
    m = held.measures
    return Report(
        title=f"{settings.model} on {settings.data}",
        summary=(
            f"{m.n:,} photos of {len(m.classes)} classes that it had not seen: {percent(m.top1)} right "
            f"({interval(m.top1_interval)}), {percent(m.top5)} among the first five."
        ),
        held=held,
        threshold=threshold,
        facts={
            **{name: str(value) for name, value in asdict(settings).items() if value is not None},
            "weights from": card.weights.name if card.weights is not None else "drawn at random",
            "preprocessing": str(card.preprocessing),
            "versions": ", ".join(f"{name} {number}" for name, number in card.versions.items()),
            "made": card.created or "",
        },
        audit=page,
        seconds=dict(clock.seconds),
        trials=probe.trials,
    )
