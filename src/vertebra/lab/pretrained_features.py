"""EfficientNet-Lite0's ImageNet features of small image sets, with a linear head: training that begins with weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from vertebra.models import create_model, get_model_weights
from vertebra.pixels import Pixels
from vertebra.preprocessing import Preprocessing
from vertebra.progress import Progress, silent
from vertebra.train.logistic_regression import Solver
from vertebra.train.loss import to_images
from vertebra.train.metrics import Floats

from .small_data import ImageSet

NAME, SIZE = "efficientnet_lite0", 224
STRENGTH = 1e-5  # of the head's L2 penalty: the middle of those that `vertebra train` tries
_BATCH = 25


@dataclass(frozen=True)
class Accuracy:
    """Of a fitted head, in %."""

    train: float
    val: float


def linear_head_accuracy(
    images: ImageSet, seeds: Iterable[int], per_class: int, device: str = "cpu", progress: Progress = silent
) -> list[Accuracy]:
    """For each seed, fit a linear head to the features of few training images, and test it on the validation images.

    Args:
        images: of 224 × 224 pixels.
        seeds: of the splits.
        per_class: training images of each class.
        device: of the network.
        progress: called as features are computed.
    """
    weights = get_model_weights(NAME)["DEFAULT"]
    network = create_model(NAME, weights=weights).eval().to(device)
    preprocessing = Preprocessing.from_weights(weights)
    parts = []
    for start in range(0, len(images.pixels), _BATCH):
        progress("features of the photos", start, len(images.pixels))
        pixels = torch.from_numpy(images.pixels[start : start + _BATCH]).to(device)
        with torch.inference_mode():
            features = network.forward_features(to_images(pixels, preprocessing))
            parts.append(network.forward_embedding(features).cpu().numpy())
    # Features (N, D) in place of the pixels are split as these are.
    of_images = replace(images, pixels=cast(Pixels, np.concatenate(parts)))
    found = []
    for seed in seeds:
        split = of_images.split(seed).few(per_class)
        own = [(cast(Floats, x), y) for x, y in ((split.train, split.train_labels), (split.val, split.val_labels))]
        head = Solver(*own[0], len(split.classes)).fit(STRENGTH)
        found.append(Accuracy(*(100 * float(np.mean(head.logits(x).argmax(1) == labels)) for x, labels in own)))
    return found
