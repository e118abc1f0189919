"""How far the event loop is behind: what comes in has waited about as long before anything reads it."""

from __future__ import annotations

import asyncio
import time

_PERIOD = 0.05  # seconds between two samples
_DECAY = 0.7  # of the last sample, so that a burst counts for some hundred milliseconds


class LoopLag:
    """The lag in seconds; `sample` is a task that runs as long as the application does."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def sample(self) -> None:
        """Measure again and again how much later than due a sleep ends."""
        while True:
            due = time.monotonic() + _PERIOD
            await asyncio.sleep(_PERIOD)
            self.seconds = max(0.0, time.monotonic() - due, _DECAY * self.seconds)
