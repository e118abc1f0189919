"""The probe: a pretrained body as it is, and a softmax head on its features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vertebra._load import exported
from vertebra.card import WeightSource, read_card
from vertebra.data import Dataset, open_dataset, sections
from vertebra.models import ConvNet, create_model

from ._calibrate import fit_temperature, rejection, softmax
from ._classifier import Classifier
from ._conclude import Outcome, conclude
from ._features import Seen, compute_features
from ._head import Head, Recipe, Trial, cross_validated
from ._measure import Floats, Labels
from ._recipe import view_of
from ._run import DATA, Clock, Held, Labelled, Tell, data_table, folds_of, judge, remarks, usable_photos, write_text
from ._settings import Settings


@dataclass(frozen=True)
class Probe:
    """What the probe found."""

    head: Head  # fitted to every photo that may be trained on
    logits: Floats  # (N, K) of those photos, each by a head that had not seen it
    recipe: Recipe
    trials: list[Trial]


def fit_probe(features: Floats, labels: Labels, folds: Labels, classes: int, tell: Callable[[int, int], None]) -> Probe:
    """Hold out each part in turn, then fit all photos at the strength that did best.

    Args:
        features: (N, D).
        labels: (N,).
        folds: (N,), the part that each photo is held out with.
        classes: K.
        tell: called with the fits done and the fits in all.
    """
    parts = len(np.unique(folds)) + 1
    logits, recipe, trials = cross_validated(features, labels, folds, classes, lambda done, _: tell(done, parts))
    head = recipe.fit(features, labels, classes)
    tell(parts, parts)
    return Probe(head, logits, recipe, trials)


def with_head(model: str, weights: str, head: Head) -> ConvNet:
    """The network with that head as its classifier."""
    network = create_model(model, weights=weights).eval()
    linear = nn.Linear(head.weight.shape[0], head.weight.shape[1])
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(head.weight.T.copy()))
        linear.bias.copy_(torch.from_numpy(head.bias))
    network.set_classifier(linear.eval())
    return network


def provenance(body: Path, head: Head, data: str) -> WeightSource:
    """What the card says of where the weights came from."""
    source = read_card(body).weights
    digest = hashlib.sha256()
    for part in ((source.sha256 or "") if source else "").encode(), head.weight.tobytes(), head.bias.tobytes():
        digest.update(part)
    name = source.name if source is not None else "random weights"
    return WeightSource(f"{name}, its head trained on {data}", digest.hexdigest(), None)


def features_of(settings: Settings, dataset: Dataset, clock: Clock, tell: Tell) -> tuple[Path, Seen, Labelled]:
    """The exported body, what it made of all photos, and those that can be used."""
    with clock.step("exporting the pretrained network"):
        tell(f"exporting {settings.model}", 0, 1)
        body = exported(settings.model, settings.weights)
    with clock.step("decoding and computing features"):
        view = view_of(settings, read_card(body).preprocessing)
        seen = compute_features(dataset, body, view, lambda done, total: tell("computing features", done, total))
    with clock.step("auditing"):
        photos = usable_photos(dataset, seen.facts, settings)
    return body, seen, photos


def run_probe(settings: Settings, folder: Path, tell: Tell) -> Classifier:
    """The whole of a run by the method "probe"; one that was stopped finds its features in the cache."""
    clock = Clock()
    with clock.step("finding the photos"):
        dataset = open_dataset(settings.data, ignore=settings.ignore, allow_unseen=settings.allow_unseen)
    body, seen, photos = features_of(settings, dataset, clock, tell)
    with clock.step("auditing"):
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
    write_text(
        folder / DATA,
        data_table(photos.photos, photos.facts, ["test" if is_test else "train" for is_test in test.tolist()]),
    )
    card = read_card(body)
    outcome = Outcome(
        network=with_head(settings.model, settings.weights, probe.head),
        names=names,
        preprocessing=view_of(settings, card.preprocessing),
        origin=provenance(body, probe.head, settings.data),
        licence=card.licence,
        held=held,
        threshold=found.threshold,
        audit=page,
        body=body,
        trials=probe.trials,
        notes=remarks(photos, held.photos, settings.weights),
        figures={"strength": probe.recipe.strength, "computed": seen.computed},
    )
    return conclude(settings, folder, outcome, clock, tell)


def _judged(what: str, photos: Labelled, places: Labels, logits: Floats, temperature: float) -> Held:
    chosen = [photos.photos[i] for i in places.tolist()]
    return judge(what, chosen, photos.labels[places], logits, temperature, photos.names)
