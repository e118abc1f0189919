"""When a request must be answered: the server's timeout, or the client's `X-Deadline-Ms` if that is shorter."""

from __future__ import annotations

import asyncio
import time

from .server_settings import ServerSettings

# A client's deadline is when the response must have arrived; this share of it, 1 s at most, is left for the network.
_NETWORK_SHARE = 0.15

_LAG_PERIOD = 0.05  # seconds between two samples of the event loop's lag
_LAG_DECAY = 0.7  # per sample, so that a spike counts for a few hundred milliseconds


class Deadlines:
    """Deadlines of one server's requests, in seconds of `time.monotonic`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.lag_seconds = 0.0  # about how long a request has waited before the event loop reads it

    async def sample_lag(self) -> None:
        """Measure how late a sleep ends, until this task is cancelled."""
        while True:
            due = time.monotonic() + _LAG_PERIOD
            await asyncio.sleep(_LAG_PERIOD)
            self.lag_seconds = max(0.0, time.monotonic() - due, _LAG_DECAY * self.lag_seconds)

    def compute(self, milliseconds: int | None) -> float:
        """The deadline of a request that arrives now; `milliseconds` is the client's limit."""
        seconds = self.settings.timeout
        if milliseconds is not None:
            given = milliseconds / 1000
            seconds = min(seconds, given - min(_NETWORK_SHARE * given, 1.0) - 2 * self.lag_seconds)
        return time.monotonic() + seconds
