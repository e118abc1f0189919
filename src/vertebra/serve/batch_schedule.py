"""What a worker thread does next: a decision without threads, clocks or queues, which `batcher.py` carries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .batch_costs import BatchCosts


@dataclass(frozen=True)
class QueueState:
    """What the decision depends on, beside the costs."""

    images: int  # in the queue
    oldest_seconds: float  # that the first of them has been there
    idle_threads: int  # beside the one that asks
    threads: int  # all of them
    is_closed: bool


@dataclass(frozen=True)
class Take:
    """A batch of so many images, now."""

    count: int


@dataclass(frozen=True)
class Wait:
    """Until something changes, or for so many seconds at most, and decide anew."""

    seconds: float | None = None


@dataclass(frozen=True)
class Stop:
    """There will be no more images."""


Step: TypeAlias = Take | Wait | Stop


def next_step(queue: QueueState, costs: BatchCosts) -> Step:
    """What to do now.

    A batch does not wait to fill: images gather while all threads are busy, and only then. The exception is a moment
    for one more image where that saves more than it costs, and never while a thread is idle: then the machine has
    nothing else to do.
    """
    if not queue.images:
        return Stop() if queue.is_closed else Wait()
    if not queue.idle_threads and not queue.is_closed and queue.threads > 1:
        seconds = costs.worth_waiting(queue.images) - queue.oldest_seconds
        if seconds > 0:
            return Wait(seconds)
    share = -(-queue.images // (1 + queue.idle_threads))  # idle threads get as many
    return Take(max(1, min(share, costs.next_size)))
