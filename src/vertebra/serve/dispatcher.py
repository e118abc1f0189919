"""What all routes share: the models, the limits, and how a request's images get done in time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request

from .api_errors import ApiError, BusyError
from .batcher import BatcherClosedError, Completion, Job, QueueFullError
from .loaded_model import LoadedModel
from .model_registry import ModelRegistry
from .prometheus_metrics import Metrics
from .request_body import BodyReader, Receive
from .server_settings import Settings

_LOOK_SECONDS = 0.05
_ON_THE_WAY = 0.15  # of a client's deadline, at most a second

log = logging.getLogger("vertebra.serve")


class ClientDisconnectedError(Exception):
    """Nobody waits for the answer any more."""


class ModelReplacedError(Exception):
    """A newer model has taken the place of the one that a request has begun with."""


class Dispatcher:
    """One server's models, settings, bodies and counters."""

    def __init__(self, settings: Settings, registry: ModelRegistry, metrics: Metrics) -> None:
        self.settings = settings
        self.registry = registry
        self.metrics = metrics
        self.bodies = BodyReader(settings)
        self.stopping: Callable[[], bool] = lambda: False
        self._lag = 0.0
        self._looked = 0.0

    @property
    def lag(self) -> float:
        """Seconds that the event loop is behind: what comes in has waited about as long before anything sees it."""
        if not self._looked:
            self._look(asyncio.get_running_loop(), 0.0)
        return self._lag

    def _look(self, loop: asyncio.AbstractEventLoop, wanted: float) -> None:
        """Look regularly how much later than wanted it is."""
        self._looked = now = time.monotonic()
        if wanted:
            late = max(0.0, now - wanted)
            self._lag = max(late, 0.7 * self._lag)
        loop.call_later(_LOOK_SECONDS, self._look, loop, now + _LOOK_SECONDS)

    def deadline(self, milliseconds: int | None) -> float:
        """When the request must be answered (`time.monotonic`): the server's limit, or the client's if that is less.

        The client's is when it wants to hold the answer: a part of it is left for the way.
        """
        seconds = self.settings.timeout
        if milliseconds is not None:
            given = milliseconds / 1000
            seconds = min(seconds, given - min(_ON_THE_WAY * given, 1.0) - 2 * self.lag)
        return time.monotonic() + seconds

    @asynccontextmanager
    async def body(self, request: Request, model: LoadedModel | None, deadline: float) -> AsyncIterator[bytes]:
        """A request's body, in memory until the block ends.

        Where the queue is full already, it is refused before anything of it is read.
        """
        if model is not None:
            self._room(model, 1, deadline)
        body, held = await self.bodies.read(request.receive, request.headers)
        try:
            yield body
        finally:
            self.bodies.release(held)

    def _room(self, model: LoadedModel, count: int, deadline: float) -> None:
        try:
            model.batcher.check_room(count, deadline)
        except QueueFullError as full:
            raise self._busy(model, full) from None

    def _busy(self, model: LoadedModel, full: QueueFullError) -> BusyError:
        self.metrics.refused("queue")
        return BusyError(
            f"{len(model.batcher)} images wait for {model.name!r} already, about {full.seconds:.1f} s of work. "
            "Try again later.",
            full.seconds,
        )

    def overload(self, milliseconds: bytes) -> BusyError | None:
        """What to answer to those who want something computed, whichever model they want; None: there is room.

        Cheaper than finding out what exactly is wanted, which is what counts when there is too much of it.
        """
        deadline = self.deadline(int(milliseconds) if milliseconds.isdigit() and len(milliseconds) < 9 else None)
        for served in self.registry.models.values():
            model = served.current
            if model is None:
                return None
            try:
                self._room(model, 1, deadline)
                return None
            except BusyError as error:
                busy = error.with_traceback(None)  # or it and this frame would keep each other, and the model
        return busy

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
            ClientDisconnectedError: the client has hung up; what was not begun is not done.
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
                raise self._busy(model, full) from None
        await self._finished(completion, receive)
        for job in jobs:
            if job.failure is not None:
                log.error("%s: %s", model.name, job.failure)
                raise ApiError(500, f"the model {model.name!r} failed: {job.failure}")
        return model, jobs

    async def _finished(self, completion: Completion, receive: Receive) -> None:
        hung_up: asyncio.Future[Any] = asyncio.ensure_future(receive())
        try:
            left = max(0.0, completion.deadline - time.monotonic())
            await asyncio.wait((completion.done, hung_up), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hung_up.cancel()
            if not completion.done.done():
                completion.dropped = True
        if completion.done.done():
            return
        if hung_up.done() and not hung_up.cancelled():
            raise ClientDisconnectedError
        self.metrics.refused("deadline")
        raise BusyError("the answer was not ready by the deadline. Try again later, or send fewer images.", 1)
