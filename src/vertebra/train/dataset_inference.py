"""One pass over a data set: photos are read, decoded, cropped and run through a network, in parallel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from vertebra.card import Preprocessing
from vertebra.data import Dataset, ImageInfo, ImageInfoCache, Photo, read_file
from vertebra.pixels import resize_and_crop
from vertebra.progress import Progress, silent
from vertebra.runtime.engine import FloatArray
from vertebra.runtime.engines import Runner
from vertebra.runtime.prefetch import read_ahead


def infer_dataset(
    dataset: Dataset,
    preprocessing: Preprocessing,
    runner: Runner,
    output: str,
    *,
    recall: Callable[[str], FloatArray | None] = lambda digest: None,
    keep: Callable[[str, FloatArray], None] = lambda digest, values: None,
    task: str,
    progress: Progress = silent,
) -> tuple[list[ImageInfo], FloatArray]:
    """The facts of each photo, and what the network makes of it.

    Args:
        dataset: the photos.
        preprocessing: from a picture to the network's pixels.
        runner: the network.
        output: what of it is wanted, (N, D).
        recall: by a photo's SHA-256 what the network made of it before; such a photo is not decoded for it.
        keep: called with what is new.
        task: what `progress` calls it.
        progress: called with the photos done and the photos in all.

    Returns:
        ImageInfo and values (N, D) in the order of the photos; zeros for those that cannot be used.
    """
    album = ImageInfoCache(decoding=preprocessing.decoding)

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
            known = recall(digest)
            facts, picture = album.examine(content, digest, decode=known is None)
            if picture is not None:
                pixels.append(resize_and_crop(picture, preprocessing))
                waiting.append(len(results))
            results.append((facts, known))
        if pixels:
            for place, values in zip(waiting, runner.call(np.stack(pixels), (output,))[0], strict=True):
                facts = results[place][0]
                keep(facts.sha256, values)
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
        album.save()
    width = next((len(row) for row in rows if row is not None), 1)
    found = np.zeros((len(rows), width), np.float32)
    for index, row in enumerate(rows):
        if row is not None:
            found[index] = row
    return facts, found
