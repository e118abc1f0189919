"""One pass over a data set: photos are read, hashed, decoded, cropped and run through a network, in parallel.

Features are kept on disk by the photo's content and all else that they depend on; a photo in that cache is neither
decoded nor computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vertebra.cache import cache_dir, fingerprint
from vertebra.card import Preprocessing, read_card
from vertebra.data import Dataset, ImageInfo, ImageInfoCache, Photo, SqliteCache, read_file
from vertebra.decoding import decoder_versions
from vertebra.pixels import FIT_VERSION, resize_and_crop
from vertebra.progress import Progress, silent
from vertebra.runtime.engine import EMBEDDING, FloatArray, Plan, engine_version
from vertebra.runtime.engine_runner import Runner
from vertebra.runtime.predictor import Predictor
from vertebra.runtime.prefetch import read_ahead


class FeatureStore:
    """The features of one exported network with one preprocessing, run by one plan, by the SHA-256 of the photos."""

    def __init__(self, body: Path, preprocessing: Preprocessing, plan: Plan = Plan()) -> None:  # noqa: B008 - frozen
        versions = f"{engine_version(plan)}, {preprocessing}, fit {FIT_VERSION}, {decoder_versions()}"
        context = f"{EMBEDDING} of {fingerprint(body)} by {versions}"
        key = hashlib.sha256(context.encode()).hexdigest()
        path = cache_dir() / "features" / f"{read_card(body).architecture}-{key[:24]}.sqlite"
        self.computed = 0  # features that `put` was called with
        self._cache = SqliteCache(path, "features", ("photo BLOB",), context)

    def get(self, digest: str) -> FloatArray | None:
        """(D,), or None where they are not known."""
        row = self._cache.get(digest)
        return None if row is None else np.frombuffer(row[0], np.float32)

    def put(self, digest: str, values: FloatArray) -> None:
        """Keep them; they are on disk after `save`, which this calls now and then."""
        self._cache.put(digest, (values.astype(np.float32).tobytes(),))
        self.computed += 1  # a race between threads would only miscount

    def save(self) -> None:
        """Write what is new."""
        self._cache.save()


@dataclass(frozen=True)
class DatasetFeatures:
    """Facts and features of the photos, in their order."""

    facts: list[ImageInfo]
    features: FloatArray  # (N, D); zeros for photos that cannot be used
    computed: int  # photos whose features were not known yet


def compute_features(
    dataset: Dataset, body: Path, preprocessing: Preprocessing, progress: Progress = silent
) -> DatasetFeatures:
    """The facts of each photo, and its features by an exported network."""
    predictor = Predictor(body)
    runner = predictor.runner(predictor.batch)
    store = FeatureStore(body, preprocessing, runner.plan)
    try:
        task = "computing features"
        facts, features = infer_dataset(dataset, preprocessing, runner, EMBEDDING, store, task=task, progress=progress)
    finally:
        store.save()
        runner.close()
    return DatasetFeatures(facts, features, store.computed)


def infer_dataset(
    dataset: Dataset,
    preprocessing: Preprocessing,
    runner: Runner,
    output: str,
    store: FeatureStore | None = None,
    *,
    task: str,
    progress: Progress = silent,
) -> tuple[list[ImageInfo], FloatArray]:
    """The facts of each photo and an output of the network, (N, D), in their order; zeros where a photo is unusable.

    Photos whose values are in `store` are not decoded again; it gets those that are new.
    """
    cache = ImageInfoCache(decoding=preprocessing.decoding)

    def read(photos: Sequence[Photo]) -> list[tuple[bytes, ImageInfo | None]]:
        return [read_file(photo.path) for photo in photos]

    def work(files: Sequence[tuple[bytes, ImageInfo | None]]) -> list[tuple[ImageInfo, FloatArray | None]]:
        results: list[tuple[ImageInfo, FloatArray | None]] = []
        waiting, pixels = [], []
        for content, failed in files:
            if failed is not None:
                results.append((failed, None))
                continue
            digest = hashlib.sha256(content).hexdigest()
            known = None if store is None else store.get(digest)
            facts, picture = cache.examine(content, digest, decode=known is None)
            if picture is not None:
                pixels.append(resize_and_crop(picture, preprocessing))
                waiting.append(len(results))
            results.append((facts, known))
        if pixels:
            for place, values in zip(waiting, runner.call(np.stack(pixels), (output,))[0], strict=True):
                facts = results[place][0]
                if store is not None:
                    store.put(facts.sha256, values)
                results[place] = facts, values.copy()
        return results

    facts, rows = [], []
    try:
        plan = runner.plan
        for fact, values in read_ahead(
            dataset.photos, read, work, workers=plan.lanes * plan.threads, chunk=plan.micro_batch
        ):
            facts.append(fact)
            rows.append(values)
            progress(task, len(rows), len(dataset.photos))
    finally:
        cache.save()
    found = np.zeros((len(rows), next((len(row) for row in rows if row is not None), 1)), np.float32)
    for index, row in enumerate(rows):
        if row is not None:
            found[index] = row
    return facts, found
