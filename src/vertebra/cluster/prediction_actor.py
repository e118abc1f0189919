"""What runs on the nodes: a process that holds the model and turns chunks of photos into parts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vertebra.errors import VertebraError
from vertebra.sources.chunks import Chunk
from vertebra.storage import Location

from .node_model import model_on_this_node
from .parts import PartFormat
from .ray_connection import ray_module

if TYPE_CHECKING:
    from vertebra.runtime.photo import Photo
    from vertebra.runtime.predictor import Predictor

READERS = 8  # threads that read photos


@dataclass(frozen=True)
class PredictionTask:
    """What every actor of a run does."""

    model: str  # the file's path where it was loaded first
    sha256: str
    target: Location
    format: PartFormat
    engine: str
    batch: int
    threads: int
    scaled: bool
    bits: int | None
    tune: bool  # whether there are photos enough to find the fastest engine first
    folder: str  # that relative paths start from
    token: tuple[str, bytes]  # name and content of a file in the target


class PredictionActor:
    """Holds the model; each call reads a chunk, predicts it and writes its part."""

    def __init__(self, task: PredictionTask, model: Any) -> None:
        self.task = task
        self._model = model  # the reference of the file's content
        self._predictor: Predictor | None = None
        self._node = ray_module().util.get_node_ip_address()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with the number of a part and its chunk → what came of it, or why nothing did."""
        number, chunk = int(row["number"]), row["chunk"]
        name = self.task.format.name(number)
        found: dict[str, Any] = {"part": name, "rows": 0, "errors": 0, "bytes": 0, "failure": ""}
        start = time.perf_counter()
        try:
            predictor = self._predictor = self._predictor or self._load()
            content, rows, errors = self.task.format.encode(self._predict(predictor, chunk))
            (self.task.target / name).write(content)
            found |= {"rows": rows, "errors": errors, "bytes": len(content)}
        except VertebraError as error:
            found["failure"] = str(error)
        return found | {"seconds": time.perf_counter() - start, "node": self._node}

    def _load(self) -> Predictor:
        from vertebra.runtime.predictor import Predictor

        task = self.task
        self._enter_folder()
        self._require_same_target()
        path = model_on_this_node(Path(task.model), task.sha256, self._model)
        predictor = Predictor(
            path, engine=task.engine, batch=task.batch, threads=task.threads, scaled=task.scaled, bits=task.bits
        )
        predictor.runner(task.batch, tune=task.tune)
        return predictor

    def _enter_folder(self) -> None:
        try:
            os.chdir(self.task.folder)
        except OSError:
            return  # paths that are not relative do without; of others the read says what is missing

    def _require_same_target(self) -> None:
        """Raise a `VertebraError` if what is the target here is another folder than the driver's."""
        name, content = self.task.token
        place = self.task.target / "_vertebra" / name
        try:
            seen = place.read_bytes()
        except VertebraError:
            seen = b""
        if seen != content:
            raise VertebraError(
                f"{self.task.target} is not the same folder on this node. Give a folder that all nodes share, or s3://…"
            )

    def _predict(self, predictor: Predictor, chunk: Chunk) -> Iterator[Any]:
        from vertebra.runtime.photo import Photo

        def photos() -> Iterator[Photo]:
            for record in chunk.read(READERS):
                yield Photo(record.name, record.error, record.content)

        return predictor.predict_many(photos(), top=self.task.format.top, embed=self.task.format.embed)
