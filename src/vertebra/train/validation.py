"""Logits of a network in training for the photos of a split, preprocessed as for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vertebra.card import Preprocessing
from vertebra.data import Photo
from vertebra.errors import ImageError
from vertebra.machine import usable_cores
from vertebra.models import ConvNet
from vertebra.pixels import Pixels, network_pixels
from vertebra.prefetch import in_order
from vertebra.progress import Progress
from vertebra.sources.photo_place import PhotoPlace

from .distributed import Distributed
from .loss import to_images
from .metrics import Floats, Labels

_BATCH = 16


@dataclass(frozen=True)
class Split:
    """The paths, labels and SHA-256 (none: not known) of one split."""

    paths: list[PhotoPlace]
    labels: Labels
    digests: Sequence[str] = ()

    @staticmethod
    def from_labels(
        paths: list[PhotoPlace], labels: Sequence[str], digests: Sequence[str], names: Sequence[str]
    ) -> Split:
        """Build a split from class names."""
        number = {name: index for index, name in enumerate(names)}
        known = digests if all(digests) else ()
        return Split(paths, np.array([number[label] for label in labels], np.int64), known)

    def photos(self, names: Sequence[str]) -> list[Photo]:
        """Return the photos as `vertebra.data` has them."""
        return [Photo(path, names[label]) for path, label in zip(self.paths, self.labels.tolist(), strict=True)]


class Inference(Protocol):
    """Reads photos of a split, in several threads, and predicts."""

    def load(self, split: Split, number: int) -> Any:
        """Return what `logits` takes of one photo; an ImageError if it cannot be read."""

    def logits(self, items: Sequence[Any], device: torch.device) -> Tensor:
        """Return the logits (N, K) of photos."""


@dataclass(frozen=True)
class NetworkInference:
    """Photos preprocessed as for prediction, through the whole network."""

    network: ConvNet
    preprocessing: Preprocessing

    def load(self, split: Split, number: int) -> Pixels:
        """Return the pixels of one photo."""
        return network_pixels(split.paths[number], self.preprocessing)

    def logits(self, items: Sequence[Pixels], device: torch.device) -> Tensor:
        """Return the logits (N, K) of pixels."""
        logits: Tensor = self.network(to_images(torch.from_numpy(np.stack(items)).to(device), self.preprocessing))
        return logits


def predict_logits(
    network: ConvNet,
    inference: Inference,
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
    items = in_order(
        mine,
        lambda numbers: [inference.load(split, number) for number in numbers],
        workers=max(1, usable_cores() // distributed.local_size),
        chunk=1,
    )
    network.eval()
    unreadable = None
    try:
        for start in range(0, len(mine), _BATCH):
            batch = [next(items) for _ in mine[start : start + _BATCH]]
            with torch.inference_mode():
                logits[list(mine[start : start + _BATCH])] = inference.logits(batch, distributed.device).double().cpu()
            progress(task, start * distributed.size, len(split.paths))
    except ImageError as error:
        unreadable = str(error)
    finally:
        items.close()
    unreadable = distributed.first_value(unreadable)
    if unreadable is not None:
        raise ImageError(unreadable)
    found: Floats = distributed.all_reduce(logits.to(distributed.device)).float().cpu().numpy()
    return found
