"""One image of a request, and the completion that its request waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vertebra.pixels import Pixels
from vertebra.runtime.engine import PROBABILITIES, FloatArray


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """The network's input from one image."""

    pixels: Pixels  # uint8 (crop, crop, 3)
    width: int = 0  # of the photo
    height: int = 0
    context: Any = None  # passed on to the job


@dataclass(eq=False, slots=True)
class Job:
    """One image of a request, with its result."""

    decode: Callable[[], DecodedImage]  # called by a worker thread; raises `ImageError`
    name: str = "image"
    outputs: tuple[str, ...] = (PROBABILITIES,)
    # Set by the worker thread:
    values: dict[str, FloatArray] = field(default_factory=dict)  # output name -> values of this image
    error: str | None = None  # why the image cannot be decoded
    failure: Exception | None = None  # why the model failed
    width: int = 0
    height: int = 0
    context: Any = None  # from `decode`, for what the request does next
    queue_seconds: float = 0.0
    decode_seconds: float = 0.0
    inference_seconds: float = 0.0
    batch_size: int = 0
    completion: Completion | None = None
    queued_at: float = 0.0


class Completion:
    """Sets `done` when all jobs of a request are done.

    It does not refer to its jobs: a reference cycle would keep their images until the next garbage collection.
    """

    def __init__(self, count: int, deadline: float) -> None:
        self.deadline = deadline  # seconds of time.monotonic
        self.is_cancelled = False  # whether the request has ended; read by the worker threads
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self._num_pending = count

    def is_active(self, now: float) -> bool:
        """Whether the request is neither cancelled nor past its deadline."""
        return not self.is_cancelled and self.deadline > now

    def mark_done(self, count: int) -> None:
        """Record that `count` more jobs are done. Call it in the event loop only."""
        self._num_pending -= count
        if self._num_pending <= 0 and not self.done.done():
            self.done.set_result(None)
