"""Admission of requests: their deadline, and room in the queue of their model.

What limits that queue is in `queue_limit.py`; how much of a body is read, and how many at a time, in `request_body.py`.
"""

from __future__ import annotations

import asyncio
import time

from vertebra.units import counted

from .api_errors import BusyError
from .loaded_model import LoadedModel
from .model_registry import ModelRegistry
from .prometheus_metrics import Metrics
from .queue_limit import QueueFullError
from .server_settings import ServerSettings

# A client's deadline is when it wants to hold the answer; so much of it, a second at most, is left for the network.
_NETWORK_SHARE = 0.15

_LAG_PERIOD = 0.05  # seconds between two samples of the event loop's lag
_LAG_DECAY = 0.7  # of the last sample, so that a burst counts for some hundred milliseconds


class Admission:
    """Admits or refuses the requests of one server."""

    def __init__(self, settings: ServerSettings, registry: ModelRegistry, metrics: Metrics) -> None:
        self.settings = settings
        self.registry = registry
        self.metrics = metrics
        self.lag_seconds = 0.0  # what comes in has waited about as long before the event loop reads it

    async def sample_lag(self) -> None:
        """Measure again and again how much later than due a sleep ends; a task that runs as long as the application."""
        while True:
            due = time.monotonic() + _LAG_PERIOD
            await asyncio.sleep(_LAG_PERIOD)
            self.lag_seconds = max(0.0, time.monotonic() - due, _LAG_DECAY * self.lag_seconds)

    def deadline(self, milliseconds: int | None) -> float:
        """When the request must be answered (`time.monotonic`): the server's limit, or the client's if that is less."""
        seconds = self.settings.timeout
        if milliseconds is not None:
            given = milliseconds / 1000
            seconds = min(seconds, given - min(_NETWORK_SHARE * given, 1.0) - 2 * self.lag_seconds)
        return time.monotonic() + seconds

    def admit(self, model: LoadedModel, deadline: float) -> None:
        """Check for room for one image, before the body is read.

        Raises:
            BusyError: the model's queue is full.
        """
        try:
            model.batcher.admit(1, deadline)
        except QueueFullError as full:
            raise self.refuse(model, full) from None

    def refuse(self, model: LoadedModel, full: QueueFullError) -> BusyError:
        """The error for a full queue, counted."""
        self.metrics.refused("queue")
        images = counted(len(model.batcher), "image")
        return BusyError(
            f"the queue of {model.name!r} has {images}, about {full.seconds:.1f} s of work. Try again later.",
            full.seconds,
        )

    def overload(self, milliseconds: bytes) -> BusyError | None:
        """What to answer to a request for any model, whose `X-Deadline-Ms` that is; None: some model has room.

        Cheaper than finding out what exactly is wanted, which is what counts when there is too much of it.
        """
        deadline = self.deadline(int(milliseconds) if milliseconds.isdigit() and len(milliseconds) < 9 else None)
        for served in self.registry.models.values():
            model = served.current
            if model is None:
                return None
            try:
                self.admit(model, deadline)
                return None
            except BusyError as error:
                busy = error.with_traceback(None)  # or it and this frame would keep each other, and the model
        return busy
