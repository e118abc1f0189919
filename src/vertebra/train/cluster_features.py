"""Features computed on a Ray cluster: actors read the photos, and this process keeps what they return.

What is in the feature store is not computed again, so the same command goes on where an earlier one was stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vertebra.cache import fingerprint
from vertebra.card import Preprocessing
from vertebra.cluster.node_model import NodeModel
from vertebra.cluster.nodes import nodes_watched, require_usable_nodes
from vertebra.cluster.prediction_pipeline import actor_rows
from vertebra.cluster.ray_connection import LOCAL, connected, ray_module
from vertebra.data import Dataset, ImageInfo, ImageInfoCache, read_file
from vertebra.data.image_info import THUMBNAIL_SIZE
from vertebra.errors import VertebraError, warn
from vertebra.progress import Progress
from vertebra.runtime.engine import Plan
from vertebra.units import counted

from .feature_actor import FeatureActor, FeatureTask, PhotoChunk
from .feature_store import FeatureStore

_MOST = 256  # photos of a chunk: 2 MB of features and thumbnails
_CHUNKS_PER_CPU = 4  # at least, so that no node ends long before the others


def infer_on_ray(
    dataset: Dataset,
    body: Path,
    preprocessing: Preprocessing,
    plan: Plan,
    store: FeatureStore,
    address: str,
    progress: Progress,
) -> list[ImageInfo]:
    """Return the image info of each photo; features that the store lacks are computed on the cluster and added to it.

    Raises:
        VertebraError: no cluster answers, a node cannot take part or does not see the photos, or Ray gives up.
    """
    infos: list[ImageInfo | None] = [None] * len(dataset.photos)
    cache = ImageInfoCache(decoding=preprocessing.decoding)
    done = 0
    progress("starting Ray", 0, len(infos))
    try:
        with connected(address):
            if address != LOCAL:
                require_usable_nodes()
            with nodes_watched(warn, 1) as watch:
                model = NodeModel(str(body.absolute()), fingerprint(body), plan.engine, plan.micro_batch)
                task = FeatureTask(model, preprocessing, plan, token=os.urandom(8).hex())
                for start, row in _computed(dataset, task, store, address):
                    if row["failure"]:
                        raise VertebraError(f"node {row['node']}: {row['failure']}")
                    for index, photo in enumerate(row["photos"], start):
                        infos[index] = _kept(dataset, index, photo, row["node"], cache, store)
                    done += len(row["photos"])
                    nodes = "" if address == LOCAL else f": {counted(watch.alive, 'node')}"
                    progress(f"computing features{nodes}", done, len(infos))
    finally:
        cache.save()
        store.save()
    found = [info for info in infos if info is not None]
    if len(found) < len(infos):
        raise VertebraError(
            f"Ray has lost {counted(len(infos) - len(found), 'photo')}. Run the same command again, which goes on from "
            "there."
        )
    return found


def _computed(
    dataset: Dataset, task: FeatureTask, store: FeatureStore, address: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Iterate over (index of a chunk's first photo, what its actor returned)."""
    ray = ray_module()
    places = [photo.path for photo in dataset.photos]
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    # Whole micro-batches, so that features are those of a run on this machine, bit for bit.
    batch = task.plan.micro_batch
    size = min(_MOST, -(-len(places) // (_CHUNKS_PER_CPU * cpus)))
    size = max(1, -(-size // batch)) * batch
    rows = [
        {"number": start, "chunk": PhotoChunk(tuple(places[start : start + size]))}
        for start in range(0, len(places), size)
    ]
    content = None if address == LOCAL else ray.put(Path(task.body.path).read_bytes())
    arguments = (task, ray.put(store.first_words()), content)
    for row in actor_rows(FeatureActor, arguments, rows, 1, "run the same command again, which goes on from there"):
        yield int(row["number"]), row


def _kept(
    dataset: Dataset, index: int, photo: dict[str, Any], node: str, cache: ImageInfoCache, store: FeatureStore
) -> ImageInfo:
    """Keep what a node has found out about a photo; return its image info."""
    fields = photo["info"]
    info = ImageInfo(**{**fields, "broken": fields["broken"] or None})
    place = dataset.photos[index].path
    if info.broken == "unreadable":
        _, failed = read_file(place)
        if failed is None:
            raise VertebraError(
                f"node {node} cannot read {place}, which {info.reason} there. Put the photos where every node finds "
                "them under the same path, such as a shared folder or s3://."
            )
    if info.broken is not None:
        return info
    if photo["thumbnail"]:
        greys = np.frombuffer(photo["thumbnail"], np.uint8).reshape(THUMBNAIL_SIZE, THUMBNAIL_SIZE)
        cache.add(info, greys)
    if photo["values"] and info.sha256 not in store:  # two nodes may have computed the same
        store.put_row(info.sha256, (photo["exponent"], np.frombuffer(photo["values"], "<f2")))
    return info
