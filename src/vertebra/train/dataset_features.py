"""Dataset inference: photos are read, hashed, decoded, cropped and run through a network, in parallel.

Features are cached on disk by photo content, network, engine and preprocessing; a cached photo is not decoded again.
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
from vertebra.prefetch import read_ahead
from vertebra.progress import Progress, silent
from vertebra.runtime.engine import EMBEDDING, FloatArray, Plan, engine_version
from vertebra.runtime.engine_runner import Runner
from vertebra.runtime.predictor import Predictor


class FeatureStore:
    """The feature cache of one exported network, preprocessing and plan, keyed by the SHA-256 of the photo."""

    def __init__(self, body: Path, preprocessing: Preprocessing, plan: Plan = Plan()) -> None:  # noqa: B008 - frozen
        versions = f"{engine_version(plan)}, {preprocessing}, fit {FIT_VERSION}, {decoder_versions()}"
        context = f"{EMBEDDING} of {fingerprint(body)} by {versions}"
        key = hashlib.sha256(context.encode()).hexdigest()
        path = cache_dir() / "features" / f"{read_card(body).architecture}-{key[:24]}.sqlite"
        self.computed = 0  # features that `put` was called with
        self._cache = SqliteCache(path, "features", ("photo BLOB",), context)

    def get(self, digest: str) -> FloatArray | None:
        """Return the features (D,), or None if they are not cached."""
        row = self._cache.get(digest)
        return None if row is None else np.frombuffer(row[0], np.float32)

    def put(self, digest: str, values: FloatArray) -> None:
        """Cache features; they are written at intervals, and by `save`."""
        self._cache.put(digest, (values.astype(np.float32).tobytes(),))
        self.computed += 1  # a race between threads would only miscount

    def save(self) -> None:
        """Write new features to disk."""
        self._cache.save()


@dataclass(frozen=True)
class DatasetFeatures:
    """Image infos and features of the photos, in their order."""

    infos: list[ImageInfo]
    features: FloatArray  # (N, D); zeros for photos that cannot be used
    computed: int  # photos whose features were not cached


def compute_features(
    dataset: Dataset, body: Path, preprocessing: Preprocessing, progress: Progress = silent
) -> DatasetFeatures:
    """Compute the image info and the features of each photo with an exported network."""
    predictor = Predictor(body)
    runner = predictor.runner(predictor.batch)
    store = FeatureStore(body, preprocessing, runner.plan)
    try:
        task = "computing features"
        infos, features = infer_dataset(dataset, preprocessing, runner, EMBEDDING, store, task=task, progress=progress)
    finally:
        store.save()
        runner.close()
    return DatasetFeatures(infos, features, store.computed)


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
    """Return the image info of each photo and one output of the network, (N, D); zeros for unusable photos.

    Photos in `store` are not decoded again; new outputs are added to it.
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
            info, picture = cache.examine(content, digest, decode=known is None)
            if picture is not None:
                pixels.append(resize_and_crop(picture, preprocessing))
                waiting.append(len(results))
            results.append((info, known))
        if pixels:
            for index, values in zip(waiting, runner.call(np.stack(pixels), (output,))[0], strict=True):
                info = results[index][0]
                if store is not None:
                    store.put(info.sha256, values)
                results[index] = info, values.copy()
        return results

    infos, rows = [], []
    try:
        plan = runner.plan
        for info, values in read_ahead(
            dataset.photos, read, work, workers=plan.lanes * plan.threads, chunk=plan.micro_batch
        ):
            infos.append(info)
            rows.append(values)
            progress(task, len(rows), len(dataset.photos))
    finally:
        cache.save()
    found = np.zeros((len(rows), next((len(row) for row in rows if row is not None), 1)), np.float32)
    for index, row in enumerate(rows):
        if row is not None:
            found[index] = row
    return infos, found
