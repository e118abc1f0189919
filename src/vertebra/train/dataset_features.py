"""Photos → features, once: kept on disk by the photo's content and all else that they depend on.

One pass reads, hashes, looks at and computes; a photo in the cache is neither decoded nor computed again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vertebra.cache import cache_dir, fingerprint
from vertebra.card import Preprocessing, read_card
from vertebra.data import Dataset, ImageInfo, SqliteCache
from vertebra.decoding import decoder
from vertebra.pixels import FIT_VERSION
from vertebra.progress import Progress, silent
from vertebra.runtime.engine import EMBEDDING, FloatArray, Plan, version_of
from vertebra.runtime.predictor import Predictor

from .dataset_inference import infer_dataset


class FeatureStore:
    """The features of one network with one preprocessing, run by one engine, by their SHA-256.

    Args:
        body: an exported network; features of another file are others, be it only damaged.
        preprocessing: from a photo to the network's pixels.
        plan: how it is run.
    """

    def __init__(self, body: Path, preprocessing: Preprocessing, plan: Plan = Plan()) -> None:  # noqa: B008 - frozen
        context = (
            f"{EMBEDDING} of {fingerprint(body)} by {version_of(plan)}, {preprocessing}, fit {FIT_VERSION}, {decoder()}"
        )
        key = hashlib.sha256(context.encode()).hexdigest()
        path = cache_dir() / "features" / f"{read_card(body).architecture}-{key[:24]}.sqlite"
        self._shelf = SqliteCache(path, "features", ("photo BLOB",), context)

    def get(self, digest: str) -> FloatArray | None:
        """(D,), or None where they are not known."""
        row = self._shelf.get(digest)
        return None if row is None else np.frombuffer(row[0], np.float32)

    def put(self, digest: str, values: FloatArray) -> None:
        """Keep them; they are on disk after `save`, which this calls now and then."""
        self._shelf.put(digest, (values.astype(np.float32).tobytes(),))

    def save(self) -> None:
        """Write what is new."""
        self._shelf.save()


@dataclass(frozen=True)
class DatasetFeatures:
    """Facts and features of the photos, in their order."""

    facts: list[ImageInfo]
    features: FloatArray  # (N, D); zeros for photos that cannot be used
    computed: int  # photos whose features were not known yet


def compute_features(
    dataset: Dataset,
    body: Path,
    preprocessing: Preprocessing,
    progress: Progress = silent,
) -> DatasetFeatures:
    """The facts and the features of each photo.

    Args:
        dataset: the photos.
        body: an exported network.
        preprocessing: from a photo to the network's pixels; of its `crop_size`.
        progress: called with the photos done and the photos in all.

    Raises:
        EngineError: the network cannot be run.
    """
    predictor = Predictor(body)
    runner = predictor.runner(predictor.batch)
    store = FeatureStore(body, preprocessing, runner.plan)
    computed = 0

    def keep(digest: str, values: FloatArray) -> None:
        nonlocal computed
        store.put(digest, values)
        computed += 1  # a race between threads would only miscount

    try:
        facts, features = infer_dataset(
            dataset,
            preprocessing,
            runner,
            EMBEDDING,
            recall=store.get,
            keep=keep,
            task="computing features",
            progress=progress,
        )
    finally:
        store.save()
        runner.close()
    return DatasetFeatures(facts, features, computed)
