"""The features of a data set: computed here or on a Ray cluster, and kept in the cache.

They are kept by photo content, network, engine and preprocessing; a photo that is there is not decoded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vertebra.cache import cache_dir, fingerprint
from vertebra.card import Preprocessing, read_card
from vertebra.data import Dataset, ImageInfo, ImageInfoCache
from vertebra.decoding import decoder_versions
from vertebra.errors import VertebraError
from vertebra.pixels import FIT_VERSION
from vertebra.progress import Progress, silent
from vertebra.runtime.autotune import MIN_IMAGES_TO_MEASURE, beside_kernels
from vertebra.runtime.engine import EMBEDDING, FloatArray, Plan, engine_version
from vertebra.runtime.engine_runner import Runner
from vertebra.runtime.predictor import Predictor

from .feature_store import FeatureStore
from .photo_inference import infer_photos, not_finite
from .stored_features import Features, StoredFeatures

# Features of at most this size as float32 are read into memory.
_IN_MEMORY_BYTES = 1 << 28
_ATTEMPTS = 3


def open_feature_store(body: Path, preprocessing: Preprocessing, plan: Plan = Plan()) -> FeatureStore:  # noqa: B008
    """Return the feature store of one exported network, preprocessing and plan."""
    versions = f"{engine_version(plan)}, {preprocessing}, fit {FIT_VERSION}, {decoder_versions()}"
    context = f"{EMBEDDING} of {fingerprint(body)} by {versions}"
    key = hashlib.sha256(context.encode()).hexdigest()
    return FeatureStore(cache_dir() / "features" / f"{read_card(body).architecture}-{key[:24]}", context)


@dataclass(frozen=True)
class DatasetFeatures:
    """Image infos and features of the photos, in their order."""

    infos: list[ImageInfo]
    features: Features  # (N, D), rounded to float16; zeros for photos that cannot be used
    computed: int  # photos whose features were not cached


def compute_features(
    dataset: Dataset, body: Path, preprocessing: Preprocessing, progress: Progress = silent, ray: str | None = None
) -> DatasetFeatures:
    """Compute the image info and the features of each photo with an exported network.

    Features go to the store as they are computed. Few of them are then read into memory, others when they are used.
    `ray` is the address of a Ray cluster that computes what is missing.

    Raises:
        EngineError: the network's features are NaN or infinite.
        VertebraError: no cluster answers, or a node cannot take part.
    """
    predictor = Predictor(body)
    runner = predictor.runner(predictor.batch)
    if ray is None and len(dataset.photos) >= MIN_IMAGES_TO_MEASURE:
        runner = beside_kernels(body, predictor.card, runner)
    store = open_feature_store(body, preprocessing, runner.plan)
    features: StoredFeatures | None = None
    try:
        for _ in range(_ATTEMPTS):
            if ray is not None:
                from .cluster_features import infer_on_ray

                infos = infer_on_ray(dataset, body, preprocessing, runner.plan, store, ray, progress)
            else:
                found = _infer(
                    dataset, preprocessing, runner, EMBEDDING, store, task="computing features", progress=progress
                )
                infos = [info for info, _ in found]
            try:
                features = store.rows([None if info.broken else info.sha256 for info in infos])
                break
            except KeyError:  # somebody has deleted files of the cache
                ray = None
    finally:
        store.close()
        runner.close()
    if features is None:
        raise VertebraError(f"files in {store.folder} are deleted again and again. Leave the cache alone meanwhile.")
    count, width = features.shape
    small = 4 * count * width <= _IN_MEMORY_BYTES
    return DatasetFeatures(infos, features.to_memory() if small else features, store.computed)


def infer_dataset(
    dataset: Dataset,
    preprocessing: Preprocessing,
    runner: Runner,
    output: str,
    *,
    task: str,
    progress: Progress = silent,
) -> tuple[list[ImageInfo], FloatArray]:
    """Return the image info of each photo and one output of the network, (N, D); zeros for unusable photos."""
    infos, rows = [], []
    for info, values in _infer(dataset, preprocessing, runner, output, None, task=task, progress=progress):
        infos.append(info)
        rows.append(values)
    found = np.zeros((len(rows), next((len(row) for row in rows if row is not None), 1)), np.float32)
    for index, row in enumerate(rows):
        if row is not None:
            found[index] = row
    return infos, found


def _infer(
    dataset: Dataset,
    preprocessing: Preprocessing,
    runner: Runner,
    output: str,
    store: FeatureStore | None,
    *,
    task: str,
    progress: Progress,
) -> Iterator[tuple[ImageInfo, FloatArray | None]]:
    """Iterate over what `infer_photos` gives for a data set."""
    cache = ImageInfoCache(decoding=preprocessing.decoding)
    photos = dataset.photos
    try:
        found = infer_photos([photo.path for photo in photos], preprocessing, runner, output, store, cache)
        for number, (info, values) in enumerate(found):
            if store is not None and values is not None:
                raise not_finite(dataset.shown(photos[number].path))
            yield info, values
            progress(task, number + 1, len(photos))
    finally:
        cache.save()
