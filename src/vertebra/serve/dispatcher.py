"""Runs a request's images through decoder, batcher and model before its deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from vertebra.units import counted

from .api_errors import ApiError, BusyError
from .batcher import BatcherClosedError
from .deadlines import Deadlines
from .job import Completion, Job
from .loaded_model import LoadedModel
from .model_registry import ModelRegistry
from .prometheus_metrics import Metrics
from .queue_limit import QueueFullError
from .request_body import BodyReader
from .server_settings import ServerSettings

T = TypeVar("T")

_MAX_DRAWINGS = 2  # heat-maps that are drawn at a time; each takes about 50 MB

log = logging.getLogger("vertebra.serve")


class ClientDisconnectedError(Exception):
    """The client has closed the connection."""


class ModelReplacedError(Exception):
    """The model that the request started with has been replaced by a newer one."""


class Dispatcher:
    """What all routes of one server share. Which images a queue accepts is decided in `queue_limit.py`."""

    def __init__(self, settings: ServerSettings, registry: ModelRegistry, metrics: Metrics) -> None:
        self.settings = settings
        self.registry = registry
        self.metrics = metrics
        self.deadlines = Deadlines(settings)
        self.body_reader = BodyReader(settings)
        self.is_stopping: Callable[[], bool] = lambda: False
        self._drawing = asyncio.Semaphore(_MAX_DRAWINGS)

    @asynccontextmanager
    async def read_body(self, request: Request, model: LoadedModel, deadline: float) -> AsyncIterator[bytes]:
        """The request's body, in memory until the block ends; if the model's queue is full, it is not read.

        Raises:
            ApiError: as `BodyReader.read` does.
            BusyError: the queue is full.
        """
        self._require_room(model, deadline)
        async with self.body_reader.read(request.receive, request.headers) as body:
            yield body

    async def run_jobs(
        self,
        name: str | None,
        make_jobs: Callable[[LoadedModel], Sequence[Job]],
        receive: Receive,
        deadline: float,
        *,
        expected_model: LoadedModel | None = None,
    ) -> tuple[LoadedModel, Sequence[Job]]:
        """Run the jobs of a request on the model of that name.

        Raises:
            ModelReplacedError: `expected_model` has been replaced.
            ApiError: 404 no such model, 503 no room or no time, 500 the model failed.
            ClientDisconnectedError: the client has closed the connection; its queued images are discarded.
        """
        while True:
            model = self.registry.get(name)
            if expected_model is not None and model is not expected_model:
                raise ModelReplacedError
            jobs = make_jobs(model)
            try:
                completion = model.batcher.submit(jobs, deadline)
                break
            except BatcherClosedError:
                continue  # the model has just been replaced
            except QueueFullError as full:
                raise self._queue_full_error(model, full) from None
        await self._wait_for(completion, receive)
        for job in jobs:
            if job.failure is not None:
                log.error("%s: %s", model.name, job.failure)
                raise ApiError(500, f"the model {model.name!r} failed: {job.failure}")
        return model, jobs

    async def run_drawing(self, draw: Callable[[], T], deadline: float) -> T:
        """The result of `draw`, which runs in a thread.

        Raises:
            BusyError: the deadline has passed.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())), self._drawing:
                return await asyncio.to_thread(draw)
        except TimeoutError:
            raise self._deadline_error() from None

    def find_overload(self, deadline_ms: bytes) -> BusyError | None:
        """The error if the queues of all models are full for a request with this `X-Deadline-Ms`; else None.

        It looks at nothing else of the request: under overload, refusals must be cheap.
        """
        is_number = deadline_ms.isdigit() and len(deadline_ms) < 9
        deadline = self.deadlines.compute(int(deadline_ms) if is_number else None)
        for served in self.registry.models.values():
            model = served.current
            if model is None:
                return None
            try:
                self._require_room(model, deadline)
                return None
            except BusyError as error:
                busy = error.with_traceback(None)  # the traceback would keep this frame, and so the model, alive
        return busy

    def _require_room(self, model: LoadedModel, deadline: float) -> None:
        """Raise BusyError if the model's queue has no room for one image."""
        try:
            model.batcher.require_room(1, deadline)
        except QueueFullError as full:
            raise self._queue_full_error(model, full) from None

    def _queue_full_error(self, model: LoadedModel, full: QueueFullError) -> BusyError:
        self.metrics.count_refusal("queue")
        images = counted(len(model.batcher), "image")
        return BusyError(
            f"the queue of {model.name!r} has {images}, about {full.seconds:.1f} s of work. Try again later.",
            full.seconds,
        )

    async def _wait_for(self, completion: Completion, receive: Receive) -> None:
        disconnected: asyncio.Future[Any] = asyncio.ensure_future(receive())
        try:
            left = max(0.0, completion.deadline - time.monotonic())
            await asyncio.wait((completion.done, disconnected), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnected.cancel()
            if not completion.done.done():
                completion.is_cancelled = True
        if completion.done.done():
            return
        if disconnected.done() and not disconnected.cancelled():
            raise ClientDisconnectedError
        raise self._deadline_error()

    def _deadline_error(self) -> BusyError:
        self.metrics.count_refusal("deadline")
        return BusyError("the answer was not ready by the deadline. Try again later, or send fewer images.", 1)
