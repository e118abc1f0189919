"""Logits of a network in training for the photos of a split, preprocessed as for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vertebra.card import Preprocessing
from vertebra.data import Photo
from vertebra.errors import ImageError
from vertebra.machine import usable_cores
from vertebra.models import ConvNet
from vertebra.pixels import network_pixels
from vertebra.prefetch import in_order
from vertebra.progress import Progress
from vertebra.sources.photo_place import PhotoPlace

from .distributed import Distributed
from .loss import to_images
from .metrics import Floats, Labels

_BATCH = 16


@dataclass(frozen=True)
class Split:
    """The paths and labels of one split."""

    paths: list[PhotoPlace]
    labels: Labels

    @staticmethod
    def from_labels(paths: list[PhotoPlace], labels: Sequence[str], names: Sequence[str]) -> Split:
        """Build a split from class names."""
        number = {name: index for index, name in enumerate(names)}
        return Split(paths, np.array([number[label] for label in labels], np.int64))

    def photos(self, names: Sequence[str]) -> list[Photo]:
        """Return the photos as `vertebra.data` has them."""
        return [Photo(path, names[label]) for path, label in zip(self.paths, self.labels.tolist(), strict=True)]


def predict_logits(
    network: ConvNet,
    preprocessing: Preprocessing,
    split: Split,
    distributed: Distributed,
    progress: Progress,
    task: str,
) -> Floats:
    """Predict logits (N, K) of a split, shared among all processes; every process must call it.

    An unreadable photo raises an ImageError in every process.
    """
    mine = range(distributed.rank, len(split.paths), distributed.size)
    logits = torch.zeros(len(split.paths), network.num_classes, dtype=torch.float64)
    pixels = in_order(
        [split.paths[i] for i in mine],
        lambda paths: [network_pixels(path, preprocessing) for path in paths],
        workers=max(1, usable_cores() // distributed.local_size),
        chunk=1,
    )
    network.eval()
    unreadable = None
    try:
        for start in range(0, len(mine), _BATCH):
            batch = np.stack([next(pixels) for _ in mine[start : start + _BATCH]])
            images = to_images(torch.from_numpy(batch).to(distributed.device), preprocessing)
            with torch.inference_mode():
                logits[list(mine[start : start + _BATCH])] = network(images).double().cpu()
            progress(task, start * distributed.size, len(split.paths))
    except ImageError as error:
        unreadable = str(error)
    finally:
        pixels.close()  # type: ignore[attr-defined]
    unreadable = distributed.first_value(unreadable)
    if unreadable is not None:
        raise ImageError(unreadable)
    found: Floats = distributed.all_reduce(logits.to(distributed.device)).float().cpu().numpy()
    return found
