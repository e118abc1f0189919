"""Photos → features, once: kept on disk by the photo's content and the network's weights.

One pass reads, hashes, looks at and computes; a photo that was seen before is neither decoded nor computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vertebra.cache import cache_dir
from vertebra.card import read_card
from vertebra.data import Album, Dataset, Facts, Photo, read_file
from vertebra.errors import ImageError
from vertebra.machine import usable_cores
from vertebra.runtime.choose import choose
from vertebra.runtime.engines import EMBEDDING, FloatArray, Runner, open_engine
from vertebra.runtime.image import fit
from vertebra.runtime.pipeline import in_order

_BATCH = 16
_SAVE_EVERY = 512  # photos: what an interrupted run loses at most


class FeatureStore:
    """The features of one network, by the SHA-256 of photos, in an SQLite file."""

    def __init__(self, body: Path) -> None:
        card = read_card(body)
        weights = card.weights.sha256 if card.weights is not None else None
        # Equal weights give equal features whenever the file was made; without a hash the file stands for itself.
        identity = weights or hashlib.sha256(body.read_bytes()).hexdigest()
        key = hashlib.sha256(f"{card.architecture} {identity} {card.preprocessing} {EMBEDDING}".encode()).hexdigest()
        path = cache_dir() / "features" / f"{card.architecture}-{key[:24]}.sqlite"
        self._lock = threading.Lock()
        self._new: dict[str, bytes] = {}
        self._connection: sqlite3.Connection | None = None
        # A cache that cannot be used costs time, never the result.
        with contextlib.suppress(sqlite3.Error, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
            connection.execute("CREATE TABLE IF NOT EXISTS features (sha256 TEXT PRIMARY KEY, photo BLOB)")
            self._connection = connection

    def get(self, digest: str) -> FloatArray | None:
        """(D,), or None where they are not known."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if digest in self._new:
                return np.frombuffer(self._new[digest], np.float32)
            if self._connection is not None:
                wanted = "SELECT photo FROM features WHERE sha256 = ?"
                row = self._connection.execute(wanted, [digest]).fetchone()
                return None if row is None else np.frombuffer(row[0], np.float32)
        return None

    def put(self, digest: str, values: FloatArray) -> None:
        """Keep them; they are on disk after `save`, which this calls now and then."""
        with self._lock:
            self._new[digest] = values.astype(np.float32).tobytes()
            full = len(self._new) >= _SAVE_EVERY
        if full:
            self.save()

    def save(self) -> None:
        """Write what is new."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if self._connection is not None and self._new:
                with self._connection:
                    self._connection.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", self._new.items())
                self._new = {}


@dataclass(frozen=True)
class Seen:
    """What one pass over the photos gave, in their order."""

    facts: list[Facts]
    features: FloatArray  # (N, D); zeros for photos that cannot be used
    computed: int  # photos whose features were not known yet


def compute_features(dataset: Dataset, body: Path, tell: Callable[[int, int], None] = lambda done, total: None) -> Seen:
    """The facts and the features of each photo.

    Args:
        dataset: the photos.
        body: an exported network.
        tell: called with the photos done and the photos in all.

    Raises:
        EngineError: the network cannot be run.
    """
    card = read_card(body)
    album, store = Album(), FeatureStore(body)
    cores = usable_cores()
    plan = choose(body, batch=_BATCH, cores=cores, images=len(dataset.photos), may_measure=False)
    runner = Runner(open_engine(body, card, plan), plan)
    computed = 0

    def work(photos: Sequence[Photo]) -> list[tuple[Facts, FloatArray | None]]:
        nonlocal computed
        results: list[tuple[Facts, FloatArray | None]] = []
        waiting, pixels = [], []
        for photo in photos:
            content, failed = read_file(photo.path)
            if failed is not None:
                results.append((failed, None))
                continue
            known = store.get(hashlib.sha256(content).hexdigest())
            facts, picture = album.look_at(content, decode=known is None)
            if picture is not None:
                try:
                    pixels.append(fit(picture, card.preprocessing))
                    waiting.append(len(results))
                except ImageError as error:
                    facts = Facts(facts.sha256, broken="damaged", reason=str(error))
            results.append((facts, known))
        if pixels:
            (found,) = runner.call(np.stack(pixels), (EMBEDDING,))
            for place, values in zip(waiting, found, strict=True):
                facts = results[place][0]
                store.put(facts.sha256, values)
                results[place] = facts, values.copy()
            computed += len(pixels)  # a race between threads would only miscount
        return results

    facts, rows = [], []
    try:
        # One thread more than lanes keeps them busy while a photo comes from a slow disk.
        workers = plan.lanes * plan.threads + 1
        for fact, values in in_order(dataset.photos, work, workers=workers, chunk=2 * plan.micro_batch):
            facts.append(fact)
            rows.append(values)
            tell(len(rows), len(dataset.photos))
    finally:
        album.save()
        store.save()
        runner.close()
    width = next((len(row) for row in rows if row is not None), 1)
    features = np.zeros((len(rows), width), np.float32)
    for index, row in enumerate(rows):
        if row is not None:
            features[index] = row
    return Seen(facts, features, computed)
