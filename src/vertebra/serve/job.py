"""One image of a request on its way through decoder, batch and network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vertebra.pixels import Pixels
from vertebra.runtime.engine import PROBABILITIES, FloatArray


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """What the network takes of an image."""

    pixels: Pixels  # uint8 (crop, crop, 3)
    width: int = 0  # of the photo
    height: int = 0
    kept: Any = None  # what the request needs of the photo later


@dataclass(eq=False, slots=True)
class Job:
    """One image of one request, and what became of it."""

    decode: Callable[[], DecodedImage]  # called by a worker thread; raises `ImageError`
    name: str = "image"
    outputs: tuple[str, ...] = (PROBABILITIES,)
    # Filled in by the worker thread:
    values: dict[str, FloatArray] = field(default_factory=dict)  # output -> its row
    error: str | None = None  # what is wrong with the image
    failure: Exception | None = None  # what is wrong with the server
    width: int = 0
    height: int = 0
    kept: Any = None
    queue_seconds: float = 0.0
    decode_seconds: float = 0.0
    inference_seconds: float = 0.0
    batch: int = 0  # images of its batch
    completion: Completion | None = None
    queued: float = 0.0  # when it was


class Completion:
    """Set once all jobs of one request are done; `is_cancelled` where the request has ended.

    Jobs know their completion, and not the other way round: in a reference cycle they would keep their images until the
    garbage collector comes by.
    """

    def __init__(self, count: int, deadline: float) -> None:
        self.deadline = deadline  # of time.monotonic
        self.is_cancelled = False  # read by the worker threads
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self._left = count

    def is_wanted(self, now: float) -> bool:
        """Whether the request is neither cancelled nor late."""
        return not self.is_cancelled and self.deadline > now

    def finish(self, count: int) -> None:
        """So many more are done; called in the event loop."""
        self._left -= count
        if self._left <= 0 and not self.done.done():
            self.done.set_result(None)
