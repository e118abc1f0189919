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
from vertebra.models import ConvNet, create_model

from ._head import Head, Solver, Trial, cross_validated
from ._measure import Floats, Labels


@dataclass(frozen=True)
class Probe:
    """What the probe found."""

    head: Head  # fitted to every photo that may be trained on
    logits: Floats  # (N, K) of those photos, each by a head that had not seen it
    strength: float
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
    logits, strength, trials = cross_validated(features, labels, folds, classes, lambda done, _: tell(done, parts))
    head = Solver(features, labels, classes).fit(strength)
    tell(parts, parts)
    return Probe(head, logits, strength, trials)


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
