"""What runs on the nodes: a process that holds the model and turns chunks of photos into parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vertebra.errors import VertebraError
from vertebra.sources.chunks import Chunk
from vertebra.storage import Location, StorageError

from .node_model import NodeModel
from .part_plan import ENDS, PartSource
from .parts import Part, PartFormat, part_name
from .ray_connection import ray_module
from .run_target import require_same_target
from .source_sample import Sample, unseen
from .worker_deaths import Attempt, DeadlyWorkError, attempted, died_of

if TYPE_CHECKING:
    from vertebra.runtime.photo import Photo
    from vertebra.runtime.prediction import Prediction
    from vertebra.runtime.predictor import Predictor

READERS = 8  # threads that read photos
PAUSE = 2.0  # seconds before a chunk that could not be read, or a part that could not be written, is tried again

T = TypeVar("T")


@dataclass(frozen=True)
class PredictionTask:
    """What every actor of a run does."""

    model: NodeModel
    target: Location
    format: PartFormat
    tune: bool  # whether there are photos enough to find the fastest engine first
    token: bytes  # by which a node tells that it sees the driver's target
    parts: PartSource
    sample: Sample = ()  # by which it tells that it sees the driver's photos


class PredictionActor:
    """Holds the model; each call reads a part's photos, predicts them and writes the part."""

    def __init__(self, task: PredictionTask, model: Any = None) -> None:
        self.task = task
        self._model = model  # the reference of the file's content; None: every node has the file
        self._predictor: Predictor | None = None
        self._is_tuned = not task.tune
        self._node = ""  # its number; known where Ray runs
        if (ray := ray_module()).is_initialized():
            self._node = ray.get_runtime_context().get_node_id()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with the number of a part → what came of it, or why nothing did.

        `failure` says why there is no part, and `fatal` whether the others would fare no better.
        """
        number = int(row["number"])
        name = part_name(number, self.task.format.suffix)
        found: dict[str, Any] = {"part": name, "failure": "", "fatal": True}
        found |= {"rows": 0, "errors": 0, "bytes": 0, "mtime_ns": 0, "sha256": ""}  # of every row the same keys
        start = time.perf_counter()
        try:
            chunk = self.task.parts.chunk(number)
            with attempted(f"{self.task.token.decode()}-{number}", chunk.name) as attempt:
                predictor = self._predictor = self._predictor or self._load()
                if not self._is_tuned and number >= ENDS:  # the first parts are there sooner without
                    predictor.runner(self.task.model.batch, tune=True)  # once a node: others wait for it
                    self._is_tuned = True
                path = attempt.folder / name
                try:
                    part = _twice(lambda: self._predict(predictor, chunk, path, attempt))
                except StorageError as error:
                    found["fatal"] = error.is_full
                    raise
                place = self.task.target / name
                _twice(lambda: place.write_file(path))
                written = _twice(place.entry)
            found |= asdict(part) | {"mtime_ns": written.mtime_ns}
        except VertebraError as error:
            found["failure"] = str(error)
            found["fatal"] = found["fatal"] and not isinstance(error, DeadlyWorkError)
        return found | {"seconds": time.perf_counter() - start, "node": self._node}

    def _load(self) -> Predictor:
        predictor = self.task.model.load(self._model)
        require_same_target(self.task.target, self.task.token)  # in the driver's folder now
        if problem := unseen(self.task.sample):  # on a node that has joined
            raise VertebraError(problem)
        return predictor

    def _predict(self, predictor: Predictor, chunk: Chunk, path: Path, attempt: Attempt) -> Part:
        from vertebra.runtime.photo import Photo

        attempt.decode_alone(
            (record.name, partial(predictor.preprocess, record.content, record.name))
            for record in chunk.read(READERS)
            if record.content is not None
        )

        def photos() -> Iterator[Photo]:
            for record in chunk.read(READERS):
                if record.name in attempt.deadly:
                    yield Photo(record.name, died_of(record.name))
                else:
                    yield Photo(record.name, record.error, record.content)

        form = self.task.format
        results: Iterator[Prediction] = predictor.predict_many(photos(), top=form.top, embed=form.embed)
        return form.write(path, results)


def _twice(work: Callable[[], T]) -> T:
    """Do it again after a pause if the storage fails for a reason that may pass."""
    try:
        return work()
    except StorageError as error:
        if error.is_missing or error.is_full:
            raise
    time.sleep(PAUSE)
    return work()
