"""Fit a probe: a linear head on the features of a frozen pretrained network."""

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

from .linear_head import OutOfFold, Recipe, cross_validate
from .logistic_regression import Head
from .metrics import Floats, Labels
from .prepare import PreparedProbe
from .temperature import softmax


@dataclass(frozen=True)
class Probe:
    """A fitted probe with its out-of-fold predictions."""

    head: Head  # fitted to all training photos
    recipe: Recipe
    temperature: float
    out_of_fold: OutOfFold  # of the training photos

    @property
    def measurable(self) -> Labels:
        """Indices of photos whose out-of-fold heads were fitted to others of their class."""
        return np.nonzero(self.out_of_fold.measurable)[0]

    def logits(self, indices: Labels) -> Floats:
        """Out-of-fold logits of these photos, (N, K)."""
        found = self.out_of_fold
        return self.recipe.logits(found.softmax_logits[indices], found.discriminant_logits[indices])

    def refit(self, indices: Labels) -> Callable[[Labels], Floats]:
        """Refit recipe and temperature to some of the measurable photos, for `cross_fit`."""
        own = self.measurable
        recipe, temperature = self.out_of_fold.recipe(own[indices])

        def apply(others: Labels) -> Floats:
            one, other = self.out_of_fold.softmax_logits[own[others]], self.out_of_fold.discriminant_logits[own[others]]
            return softmax(recipe.logits(one, other) / temperature)

        return apply


def fit_probe(prepared: PreparedProbe, progress: Progress) -> Probe:
    """Cross-validate, then fit all training photos with the best strength."""
    own, folds, classes = prepared.train_indices, prepared.folds, len(prepared.photos.names)
    features, labels = prepared.features[own], prepared.photos.labels[own]
    fits = len(np.unique(folds)) + 1
    found = cross_validate(features, labels, folds, classes, progress, more_fits=1)
    recipe, temperature = found.recipe(np.nonzero(found.measurable)[0])
    head = recipe.fit(features, labels, classes, found.mean_head)
    progress("fitting", fits, fits)
    return Probe(head, recipe, temperature, found)


def network_with_head(body: Path, weights: str, head: Head) -> tuple[ConvNet, list[str]]:
    """Return the network of an exported body with this head, and notes on its weights.

    The weights are read again for the notes: a body from the cache has none of its export's.
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
