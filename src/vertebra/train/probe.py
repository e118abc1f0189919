"""The probe: a pretrained body as it is, and a softmax head on its features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vertebra.card import WeightSource, read_card
from vertebra.data import Dataset, findings, open_dataset
from vertebra.errors import noting
from vertebra.export.prepare_network import assumed_of_body
from vertebra.loading import exported
from vertebra.models import ConvNet, create_model
from vertebra.progress import Progress

from .dataset_features import Seen, compute_features
from .finalize import Outcome, conclude
from .leakage import leak_notes, leaked
from .linear_head import Head, OutOfFold, Recipe, cross_validated
from .metrics import Floats, Labels
from .prepare import Calibration, Clock, Labelled, folds_of, judge, remarks, usable_photos
from .run_folder import DATA, data_table, write_text
from .schedule import view_of
from .temperature import softmax
from .train_settings import Settings
from .trained_classifier import Classifier


@dataclass(frozen=True)
class Probe:
    """What the probe found."""

    head: Head  # fitted to every photo that may be trained on
    recipe: Recipe
    temperature: float
    found: OutOfFold  # of those photos

    @property
    def measurable(self) -> Labels:
        """Places of the photos that heads predicted which had seen others of their class."""
        return np.nonzero(self.found.measurable)[0]

    def logits(self, places: Labels) -> Floats:
        """Out-of-fold logits of these photos, (N, K)."""
        return self.recipe.logits(self.found.softmax_logits[places], self.found.other_logits[places])

    def refitted(self, places: Labels) -> Callable[[Labels], Floats]:
        """Recipe and temperature fitted to some of the measurable photos, for `cross_fitted`."""
        own = self.measurable
        recipe, temperature = self.found.recipe(own[places])

        def apply(others: Labels) -> Floats:
            one, other = self.found.softmax_logits[own[others]], self.found.other_logits[own[others]]
            return softmax(recipe.logits(one, other) / temperature)

        return apply


def fit_probe(features: Floats, labels: Labels, folds: Labels, classes: int, progress: Progress) -> Probe:
    """Hold out each part in turn, then fit all photos at the strength that did best.

    Args:
        features: (N, D).
        labels: (N,).
        folds: (N,), the part that each photo is held out with.
        classes: K.
        progress: called with the fits done and the fits in all.
    """
    parts = len(np.unique(folds)) + 1
    found = cross_validated(features, labels, folds, classes, progress, more_fits=1)
    recipe, temperature = found.recipe(np.nonzero(found.measurable)[0])
    head = recipe.fit(features, labels, classes)
    progress("fitting", parts, parts)
    return Probe(head, recipe, temperature, found)


def with_head(body: Path, weights: str, head: Head) -> tuple[ConvNet, list[str]]:
    """The network of that exported body with that head as its classifier, and what to know of its weights.

    What was taken for granted, chosen or passed by in their file is told with each run: what the export said of it
    stands in no run that finds the body in the cache.
    """
    card = read_card(body)
    with noting() as notes:
        network = create_model(card.architecture, weights=weights).eval()
    notes += assumed_of_body(card.architecture, weights, network, card.preprocessing)
    linear = nn.Linear(head.weight.shape[0], head.weight.shape[1])
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(head.weight.T.copy()))
        linear.bias.copy_(torch.from_numpy(head.bias))
    network.set_classifier(linear.eval())
    return network, list(dict.fromkeys(notes))


def provenance(body: Path, head: Head, data: str) -> WeightSource:
    """What the card says of where the weights came from."""
    source = read_card(body).weights
    digest = hashlib.sha256()
    for part in ((source.sha256 or "") if source else "").encode(), head.weight.tobytes(), head.bias.tobytes():
        digest.update(part)
    name = source.name if source is not None else "random weights"
    return WeightSource(f"{name}, its head trained on {data}", digest.hexdigest(), None)


def features_of(settings: Settings, dataset: Dataset, clock: Clock, tell: Progress) -> tuple[Path, Seen, Labelled]:
    """The exported body, what it made of all photos, and those that can be used."""
    with clock.step("exporting the pretrained network"):
        tell(f"exporting {settings.model}", 0, 1)
        body = exported(settings.model, settings.weights_from_here)
    with clock.step("decoding and computing features"):
        view = view_of(settings, read_card(body).preprocessing)
        seen = compute_features(dataset, body, view, tell)
    with clock.step("auditing"):
        photos = usable_photos(dataset, seen.facts, settings)
    return body, seen, photos


def run_probe(settings: Settings, folder: Path, tell: Progress) -> Classifier:
    """The whole of a run by the method "probe"; one that was stopped finds its features in the cache."""
    clock = Clock()
    with clock.step("finding the photos"):
        dataset = open_dataset(settings.data_from_here, **settings.reading)
    body, seen, photos = features_of(settings, dataset, clock, tell)
    features, names = seen.features[photos.usable], photos.names
    splits = np.array([photo.split or "" for photo in photos.photos])
    held_split = next((split for split in ("test", "val") if (splits == split).any()), None)
    places = np.nonzero(splits == held_split)[0]  # photos that are held out from all
    pool = np.nonzero(splits != held_split)[0]
    used = [split if split == held_split else "train" for split in splits.tolist()]
    with clock.step("auditing"):
        photos = photos.with_splits(used)
        found = findings(dataset, photos.audit)
    with clock.step("fitting the head"):
        folds = folds_of(photos, pool.tolist(), settings)
        probe = fit_probe(features[pool], photos.labels[pool], folds, len(names), tell)
    with clock.step("measuring"):
        own = probe.measurable
        unmeasured = np.setdiff1d(np.arange(len(pool)), own)
        calibration = Calibration.fit(
            probe.logits(own),
            photos.labels[pool][own],
            settings.precision,
            probe.temperature,
            photos.pictures[pool][own],
        )
        if held_split is not None:
            what, unmeasured = f"the {held_split} photos", unmeasured[:0]
            chosen = [photos.photos[i] for i in places.tolist()]
            logits = probe.head.logits(features[places])
            held = judge(
                what, chosen, photos.labels[places], logits, calibration, names, pictures=photos.pictures[places]
            )
        else:
            what = f"out-of-fold predictions of {len(set(folds.tolist()))}-fold cross-validation"
            chosen = [photos.photos[i] for i in pool[own].tolist()]
            held = judge(
                what, chosen, photos.labels[pool][own], probe.logits(own), calibration, names,
                pictures=photos.pictures[pool][own], fit=probe.refitted, parts=folds[own],
            )  # fmt: skip
    network, of_weights = with_head(body, settings.weights_from_here, probe.head)
    notes = [
        *of_weights,
        *remarks(photos, held.photos, settings, [photos.photos[i] for i in pool[unmeasured].tolist()]),
    ]
    if held_split is not None:
        notes += leak_notes(leaked(photos, used, held_split), held, photos.dataset.shown)
    if held_split == "test" and (splits == "val").any():
        notes.append(
            f"The {int((splits == 'val').sum()):,} val photos train too: the probe chooses by cross-validation, and "
            "only the test photos are held out."
        )
    write_text(
        folder / DATA,
        data_table(photos.photos, photos.facts, used),
    )
    card = read_card(body)
    outcome = Outcome(
        network=network,
        names=names,
        preprocessing=view_of(settings, card.preprocessing),
        origin=provenance(body, probe.head, settings.data),
        licence=card.licence,
        held=held,
        calibration=calibration,
        found=found,
        body=body,
        trials=probe.found.trials,
        notes=notes,
        figures={"strength": probe.recipe.strength, "computed": seen.computed},
    )
    return conclude(settings, folder, outcome, clock, tell)
