"""Inference over photos: they are read, hashed, decoded, cropped and run through a network, in parallel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from vertebra.card import Preprocessing
from vertebra.data import ImageInfo, ImageInfoCache, read_file
from vertebra.pixels import resize_and_crop
from vertebra.prefetch import read_ahead
from vertebra.runtime.engine import EngineError, FloatArray
from vertebra.runtime.engine_runner import Runner
from vertebra.sources.photo_place import PhotoPlace

from .feature_files import NotFiniteError


class KnownFeatures(Protocol):
    """A feature store, or what stands for one on another machine."""

    def __contains__(self, digest: str) -> bool:
        """Whether the features of a photo are known."""

    def put(self, digest: str, values: FloatArray) -> None:
        """Add features; raise a `NotFiniteError` if they are NaN or infinite."""


def infer_photos(
    photos: Sequence[PhotoPlace],
    preprocessing: Preprocessing,
    runner: Runner,
    output: str,
    store: KnownFeatures | None,
    cache: ImageInfoCache,
) -> Iterator[tuple[ImageInfo, FloatArray | None]]:
    """Iterate over the image info of each photo and one output of the network, (D,); None for unusable photos.

    With a store, outputs are added to it, and those that it has are not computed again; only those that are NaN or
    infinite are returned.
    """

    def read(places: Sequence[PhotoPlace]) -> list[tuple[bytes, ImageInfo | None]]:
        return [read_file(place) for place in places]

    def work(files: Sequence[tuple[bytes, ImageInfo | None]]) -> list[tuple[ImageInfo, FloatArray | None]]:
        results: list[tuple[ImageInfo, FloatArray | None]] = []
        waiting, pixels = [], []
        for content, failed in files:
            if failed is not None:
                results.append((failed, None))
                continue
            digest = hashlib.sha256(content).hexdigest()
            info, picture = cache.examine(content, digest, decode=store is None or digest not in store)
            if picture is not None:
                pixels.append(resize_and_crop(picture, preprocessing))
                waiting.append(len(results))
            results.append((info, None))
        if pixels:
            for index, values in zip(waiting, runner.call(np.stack(pixels), (output,))[0], strict=True):
                info = results[index][0]
                if store is None or not _put(store, info.sha256, values):
                    results[index] = info, values.copy()
        return results

    plan = runner.plan
    return read_ahead(photos, read, work, workers=plan.lanes * plan.threads, chunk=plan.micro_batch)


def not_finite(photo: str) -> EngineError:
    """Return the error for features that are NaN or infinite."""
    return EngineError(
        f"the features of {photo} are NaN or infinite: the network's weights are damaged. Give other --weights."
    )


def _put(store: KnownFeatures, digest: str, values: FloatArray) -> bool:
    """Add features to the store; False: they are NaN or infinite."""
    try:
        store.put(digest, values)
    except NotFiniteError:
        return False
    return True
