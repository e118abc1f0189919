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

from .admission import Admission
from .api_errors import ApiError, BusyError
from .batcher import BatcherClosedError
from .job import Completion, Job
from .loaded_model import LoadedModel
from .model_registry import ModelRegistry
from .prometheus_metrics import Metrics
from .queue_limit import QueueFullError
from .request_body import BodyReader
from .server_settings import ServerSettings

T = TypeVar("T")

_LATE = "the answer was not ready by the deadline. Try again later, or send fewer images."
_DRAWINGS = 2  # pictures that are drawn at a time; each takes some 50 MB meanwhile

log = logging.getLogger("vertebra.serve")


class ClientDisconnectedError(Exception):
    """The client has closed the connection."""


class ModelReplacedError(Exception):
    """A newer model has taken the place of the one that a request has begun with."""


class Dispatcher:
    """What all routes of one server share: models, admission, bodies, and the running of jobs before a deadline."""

    def __init__(self, settings: ServerSettings, registry: ModelRegistry, metrics: Metrics) -> None:
        self.settings = settings
        self.registry = registry
        self.metrics = metrics
        self.admission = Admission(settings, registry, metrics)
        self.bodies = BodyReader(settings)
        self.is_stopping: Callable[[], bool] = lambda: False
        self._drawing = asyncio.Semaphore(_DRAWINGS)

    @asynccontextmanager
    async def body(self, request: Request, model: LoadedModel, deadline: float) -> AsyncIterator[bytes]:
        """A request's body, in memory until the block ends.

        Where the queue is full already, it is refused before anything of it is read.
        """
        self.admission.admit(model, deadline)
        async with self.bodies.read(request.receive, request.headers) as body:
            yield body

    async def run(
        self,
        name: str | None,
        make: Callable[[LoadedModel], Sequence[Job]],
        receive: Receive,
        deadline: float,
        *,
        only: LoadedModel | None = None,
    ) -> tuple[LoadedModel, Sequence[Job]]:
        """Have the jobs of a request done by the model of that name.

        Raises:
            ModelReplacedError: that is not `only` any more, which the request has begun with.
            ApiError: 404 no such model, 503 no room or no time, 500 the model failed.
            ClientDisconnectedError: the client has closed the connection; images still in the queue are dropped.
        """
        while True:
            model = self.registry.get(name)
            if only is not None and model is not only:
                raise ModelReplacedError
            jobs = make(model)
            try:
                completion = model.batcher.put(jobs, deadline)
                break
            except BatcherClosedError:
                continue  # replaced just now
            except QueueFullError as full:
                raise self.admission.refuse(model, full) from None
        await self._finish(completion, receive)
        for job in jobs:
            if job.failure is not None:
                log.error("%s: %s", model.name, job.failure)
                raise ApiError(500, f"the model {model.name!r} failed: {job.failure}")
        return model, jobs

    async def draw(self, work: Callable[[], T], deadline: float) -> T:
        """What `work` gives, in a thread.

        Raises:
            BusyError: not before the deadline.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())), self._drawing:
                return await asyncio.to_thread(work)
        except TimeoutError:
            raise self._late() from None

    async def _finish(self, completion: Completion, receive: Receive) -> None:
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
        raise self._late()

    def _late(self) -> BusyError:
        self.metrics.refused("deadline")
        return BusyError(_LATE, 1)
