"""The step `fit` of a probe: a head on the features of a pretrained network, which stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vertebra.card import read_card
from vertebra.errors import capture_warnings
from vertebra.export.prepare_network import body_assumptions
from vertebra.models import ConvNet, create_model
from vertebra.progress import Progress

from .linear_head import OutOfFold, Recipe, cross_validated
from .logistic_regression import Head
from .metrics import Floats, Labels
from .prepare import PreparedProbe
from .temperature import softmax


@dataclass(frozen=True)
class Probe:
    """What the probe found."""

    head: Head  # fitted to every photo that may be trained on
    recipe: Recipe
    temperature: float
    out_of_fold: OutOfFold  # of those photos

    @property
    def measurable(self) -> Labels:
        """Indices of the photos whose out-of-fold heads were fitted to others of their class."""
        return np.nonzero(self.out_of_fold.measurable)[0]

    def logits(self, places: Labels) -> Floats:
        """Out-of-fold logits of these photos, (N, K)."""
        return self.recipe.logits(self.out_of_fold.softmax_logits[places], self.out_of_fold.discriminant_logits[places])

    def refitted(self, places: Labels) -> Callable[[Labels], Floats]:
        """Recipe and temperature fitted to some of the measurable photos, for `cross_fitted`."""
        own = self.measurable
        recipe, temperature = self.out_of_fold.recipe(own[places])

        def apply(others: Labels) -> Floats:
            one, other = self.out_of_fold.softmax_logits[own[others]], self.out_of_fold.discriminant_logits[own[others]]
            return softmax(recipe.logits(one, other) / temperature)

        return apply


def fit_probe(prepared: PreparedProbe, progress: Progress) -> Probe:
    """Hold out each fold in turn, then fit all training photos at the strength that did best."""
    own, folds, classes = prepared.train_indices, prepared.folds, len(prepared.photos.names)
    features, labels = prepared.features[own], prepared.photos.labels[own]
    fits = len(np.unique(folds)) + 1
    found = cross_validated(features, labels, folds, classes, progress, more_fits=1)
    recipe, temperature = found.recipe(np.nonzero(found.measurable)[0])
    head = recipe.fit(features, labels, classes)
    progress("fitting", fits, fits)
    return Probe(head, recipe, temperature, found)


def with_head(body: Path, weights: str, head: Head) -> tuple[ConvNet, list[str]]:
    """The network of that exported body with that head as its classifier, and what to know of its weights.

    What was assumed, chosen or left out in their file is noted with each run: what the export said of it stands in no
    run that finds the body in the cache.
    """
    card = read_card(body)
    with capture_warnings() as notes:
        network = create_model(card.architecture, weights=weights).eval()
    notes += body_assumptions(card.architecture, weights, network, card.preprocessing)
    linear = nn.Linear(head.weight.shape[0], head.weight.shape[1])
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(head.weight.T.copy()))
        linear.bias.copy_(torch.from_numpy(head.bias))
    network.set_classifier(linear.eval())
    return network, list(dict.fromkeys(notes))
