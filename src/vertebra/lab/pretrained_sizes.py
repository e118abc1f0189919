"""Accuracy of EfficientNet-Lite0 with its ImageNet weights over input sizes, on a folder of ImageNet photos."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch

from vertebra.data import open_dataset
from vertebra.data.imagenet_labels import match_imagenet
from vertebra.errors import ImageError, UsageError
from vertebra.models import create_model, get_model_weights
from vertebra.pixels import network_pixels
from vertebra.preprocessing import Preprocessing
from vertebra.progress import Progress, silent
from vertebra.train.loss import to_images

NAME = "efficientnet_lite0"
MOST = 100  # photos, spread evenly over the data set
_BATCH = 20


def accuracy_by_size(
    data: str | os.PathLike[str], sizes: Sequence[int], device: str = "cpu", progress: Progress = silent
) -> dict[int, list[bool]]:
    """For each size, which photos it classifies correctly among the 1,000 classes.

    Photos are prepared as for the published size, with the same share cut off. Empty if the labels are others, or no
    photo can be read.
    """
    dataset = open_dataset(data, training=False)
    try:
        labels = match_imagenet(dataset.counts(), dataset.name)
    except UsageError:
        return {}
    if labels.unknown or not labels.indices:
        return {}
    photos = dataset.photos[:: -(-len(dataset.photos) // MOST)]
    weights = get_model_weights(NAME)["DEFAULT"]
    published = Preprocessing.from_weights(weights)
    network = create_model(NAME, weights=weights).eval().to(device)
    found: dict[int, list[bool]] = {}
    for done, size in enumerate(sizes):
        progress("photos at several sizes", done, len(sizes))
        resize = round(published.resize_size * size / published.crop_size)
        own = Preprocessing(size, resize, published.interpolation, published.mean, published.std)
        right: list[bool] = []
        for start in range(0, len(photos), _BATCH):
            readable = []
            for photo in photos[start : start + _BATCH]:
                try:
                    readable.append((network_pixels(photo.path, own), labels.indices[photo.label]))
                except ImageError:  # the audit's business
                    continue
            if readable:
                pixels, targets = zip(*readable, strict=True)
                with torch.inference_mode():
                    logits = network(to_images(torch.from_numpy(np.stack(pixels)).to(device), own))
                right += (logits.argmax(1).cpu() == torch.tensor(targets)).tolist()
        if right:
            found[size] = right
    return found
