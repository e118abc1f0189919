"""What computes features on the nodes of a cluster: a process that holds the network, and never torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from vertebra.card import Preprocessing, read_card
from vertebra.cluster.node_model import NodeModel
from vertebra.cluster.ray_connection import ray_module
from vertebra.cluster.worker_deaths import Attempt, DeadlyWorkError, attempted, died_of
from vertebra.data import ImageInfoCache, read_file
from vertebra.errors import VertebraError
from vertebra.runtime.engine import EMBEDDING, FloatArray, Plan
from vertebra.runtime.engine_runner import Runner, open_engine
from vertebra.sources.photo_place import PhotoPlace

from .feature_files import Row, Words, encode
from .photo_inference import infer_photos, not_finite


@dataclass(frozen=True)
class FeatureTask:
    """What every actor does."""

    body: NodeModel  # the exported network
    preprocessing: Preprocessing
    plan: Plan  # of the driver: features depend on its engine
    token: str  # of this run


@dataclass(frozen=True)
class PhotoChunk:
    """Some photos; not a list, whose elements Ray Data would look into."""

    places: tuple[PhotoPlace, ...]


class FeatureActor:
    """Holds the network; each call reads some photos and returns their image infos and features."""

    def __init__(self, task: FeatureTask, known: Any, body: Any = None) -> None:
        self._task = task
        # First words of the digests whose features the driver has, sorted; the reference of an array for all actors.
        self._known: Words = ray_module().get(known)
        self._body = body  # the reference of the network's content; None: every node has the file
        self._runner: Runner | None = None
        self._cache = ImageInfoCache(decoding=task.preprocessing.decoding)
        self._node = ray_module().util.get_node_ip_address()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with a `PhotoChunk` → its number, and what came of each photo or why nothing did."""
        found: dict[str, Any] = {"number": int(row["number"]), "node": self._node, "failure": "", "photos": []}
        try:
            places = row["chunk"].places
            more = f" and {len(places) - 1:,} more" if len(places) > 1 else ""
            with attempted(f"{self._task.token}-{found['number']}", f"{places[0]}{more}") as attempt:
                self._runner = self._runner or self._load()
                self._require_harmless(places, attempt)
                found["photos"] = self._compute(self._runner, places)
        except VertebraError as error:
            found["failure"] = str(error)
        return found

    def _load(self) -> Runner:
        task = self._task
        with suppress(OSError):  # of other relative paths the read says that they are missing
            os.chdir(task.body.folder)
        path = task.body.file(self._body)
        plan = replace(task.plan, lanes=1, threads=1)
        return Runner(open_engine(path, read_card(path), plan), plan)

    def _require_harmless(self, places: Sequence[PhotoPlace], attempt: Attempt) -> None:
        """Raise a `DeadlyWorkError` that names a photo of which a process has died: to leave it out is the user's."""
        attempt.decode_alone((str(place), partial(self._decode, place)) for place in places)
        for photo in attempt.deadly:
            raise DeadlyWorkError(died_of(photo))

    def _decode(self, place: PhotoPlace) -> None:
        content, failed = read_file(place)
        if failed is None:
            self._cache.examine(content, hashlib.sha256(content).hexdigest())

    def _compute(self, runner: Runner, places: Sequence[PhotoPlace]) -> list[dict[str, Any]]:
        computed = _Computed(self._known)
        preprocessing = self._task.preprocessing
        infos = []
        try:
            found = infer_photos(places, preprocessing, runner, EMBEDDING, computed, self._cache)
            for place, (info, values) in zip(places, found, strict=True):
                if values is not None:
                    raise not_finite(str(place))
                infos.append(info)
            return [self._photo(place, info, computed) for place, info in zip(places, infos, strict=True)]
        finally:
            self._cache.save()

    def _photo(self, place: PhotoPlace, info: Any, computed: _Computed) -> dict[str, Any]:
        exponent, values = computed.rows.get(info.sha256, (0, np.zeros(0, "<f2")))
        thumbnail = None if info.broken else self._cache.thumbnail(info.sha256, place)
        return {
            "info": {**asdict(info), "broken": info.broken or ""},
            "thumbnail": b"" if thumbnail is None else thumbnail.tobytes(),
            "exponent": exponent,
            "values": values.tobytes(),
        }


class _Computed:
    """Stands for the driver's feature store: rows that were computed here."""

    def __init__(self, known: Words) -> None:
        self._known = known
        self.rows: dict[str, Row] = {}

    def __contains__(self, digest: str) -> bool:
        word = np.frombuffer(bytes.fromhex(digest[:16]), np.uint64)[0]
        place = int(np.searchsorted(self._known, word))
        return digest in self.rows or (place < len(self._known) and bool(self._known[place] == word))

    def put(self, digest: str, values: FloatArray) -> None:
        self.rows[digest] = encode(values)
