"""A model's queue and its worker threads: several images at a time where several are queued, at once where none are.

A thread does all of an image: it decodes, then runs the network over those that it took. Both leave Python while they
compute, so that one thread for each core keeps all cores busy, and decoding for one batch runs beside the network for
another. What a thread does next is decided in `batch_schedule.py`, who gets into the queue in `queue_limit.py`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from vertebra.errors import ImageError, VertebraError
from vertebra.pixels import Pixels
from vertebra.runtime.engine import FloatArray

from .batch_costs import BatchCosts
from .batch_schedule import QueueState, Stop, Wait, next_step
from .job import Completion, Job
from .queue_limit import QueueLoad

log = logging.getLogger("vertebra.serve")

Infer: TypeAlias = Callable[[Pixels, Sequence[str]], list[FloatArray]]


class BatcherClosedError(Exception):
    """A newer model has taken the place of this one: ask for it again."""


@dataclass(frozen=True)
class Clock:
    """Where a batcher has its time from."""

    now: Callable[[], float] = time.monotonic  # of arrivals and deadlines
    timer: Callable[[], float] = time.perf_counter  # of durations
    wait: Callable[[threading.Condition, float], object] = threading.Condition.wait  # so many seconds at most


class Batcher:
    """A bounded queue in front of a network.

    Args:
        infer: pixels and names of outputs → these outputs; called by `workers` threads at a time.
        workers: threads.
        limit: images in the queue at most.
        costs: what a batch takes here, from a warm-up.
        observe: called after each batch: its size, and the seconds of decoding and of the network.
        clock: another than the system's, for tests.
    """

    def __init__(
        self,
        infer: Infer,
        *,
        workers: int,
        limit: int,
        costs: BatchCosts | None = None,
        observe: Callable[[int, float, float], None] = lambda size, decoding, inference: None,
        name: str = "model",
        clock: Clock = Clock(),
    ) -> None:
        self.workers = workers
        self.limit = limit
        self.costs = costs or BatchCosts()
        self._infer = infer
        self._observe = observe
        self._clock = clock
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"vertebra-{name}-{number}", daemon=True)
            for number in range(workers)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError:
            self.close(wait=False)  # there can be no more threads; those that there are would keep the network
            raise

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def busy(self) -> int:
        """Threads that are at work."""
        return self.workers - self._idle

    @property
    def load(self) -> QueueLoad:
        """How full the queue is."""
        return QueueLoad(len(self._queue), self.limit, self.costs.seconds_per_image, self.workers)

    def admit(self, count: int, deadline: float) -> None:
        """Let so many images in that are wanted by then (`time.monotonic`); they are put in afterwards.

        Raises:
            QueueFullError: there is no room, or not enough time.
        """
        self.load.admit(count, deadline - self._clock.now())

    def put(self, jobs: Sequence[Job], deadline: float) -> Completion:
        """Queue the jobs of a request; the completion's `done` is set once all are finished.

        Raises:
            QueueFullError: there is no room, or not enough time.
            BatcherClosedError: there are no threads any more.
        """
        self.admit(len(jobs), deadline)
        completion = Completion(len(jobs), deadline)
        now = self._clock.now()
        for job in jobs:
            job.completion, job.queued = completion, now
        with self._changed:
            if self._closed:
                raise BatcherClosedError
            self.costs.arrived(now, len(jobs))
            self._queue.extend(jobs)
            self._changed.notify(len(jobs))
        return completion

    def close(self, wait: bool = True) -> None:
        """End the threads once all that is queued is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if wait:
            for thread in self._threads:
                thread.join()

    # --- in a worker thread -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while jobs := self._next_batch():
            try:
                self._predict(jobs)
            except Exception as error:
                # Whatever it is must reach those who asked, and the thread must live on.
                if not isinstance(error, VertebraError):
                    log.exception("a batch failed")
                _fail(jobs, error)
            _deliver(jobs)
            del jobs  # or their images would stay until others come

    def _next_batch(self) -> list[Job]:
        """The images to do next; none: there will be no more."""
        with self._changed:
            while True:
                self._drop_unwanted()
                step = next_step(self._state(), self.costs)
                if isinstance(step, Stop):
                    return []
                if isinstance(step, Wait):
                    self._wait(step.seconds)
                    continue
                self.costs.taken()
                jobs: list[Job] = []
                while self._queue and len(jobs) < step.count:
                    jobs.append(self._queue.popleft())
                    self._drop_unwanted()
                return jobs

    def _state(self) -> QueueState:
        oldest = self._clock.now() - self._queue[0].queued if self._queue else 0.0
        return QueueState(len(self._queue), oldest, self._idle, self.workers, self._closed)

    def _wait(self, seconds: float | None) -> None:
        """Until something changes; only who waits without a limit is idle."""
        if seconds is not None:
            self._clock.wait(self._changed, seconds)
            return
        self._idle += 1
        self._changed.wait()
        self._idle -= 1

    def _drop_unwanted(self) -> None:
        """Remove from the front what nobody waits for any more."""
        now = self._clock.now()
        while self._queue and not (self._queue[0].completion and self._queue[0].completion.is_wanted(now)):
            self._queue.popleft()

    def _predict(self, jobs: list[Job]) -> None:
        """Decode, infer, and give each job its rows."""
        timer = self._clock.timer
        start = timer()
        taken = self._clock.now()
        is_saturated = bool(self._queue) and not self._idle
        decoded = self._decode(jobs, taken)
        if not decoded:
            return
        ready = [job for job, _ in decoded]
        outputs = sorted({name for job in ready for name in job.outputs})
        begin = timer()
        values = self._infer(np.stack([pixels for _, pixels in decoded]), outputs)
        inference = timer() - begin
        for row, job in enumerate(ready):
            # Copies: a row that is kept would keep the whole batch.
            job.values = {
                name: value[row].copy() for name, value in zip(outputs, values, strict=True) if name in job.outputs
            }
            job.inference_seconds = inference
            job.batch = len(ready)
        with self._changed:
            self.costs.measured(len(ready), inference, timer() - start, is_saturated)
        self._observe(len(ready), begin - start, inference)

    def _decode(self, jobs: list[Job], taken: float) -> list[tuple[Job, Pixels]]:
        """Those of the jobs whose images can be read, with their pixels; the others get their error."""
        found = []
        for job in jobs:
            job.queue_seconds = taken - job.queued
            begin = self._clock.timer()
            try:
                image = job.decode()
            except ImageError as error:
                job.error = str(error)
            else:
                job.width, job.height, job.kept = image.width, image.height, image.kept
                found.append((job, image.pixels))
            job.decode_seconds = self._clock.timer() - begin
        return found


def _fail(jobs: Sequence[Job], error: Exception) -> None:
    """Without its traceback, which would keep the images and, in a reference cycle, the jobs themselves."""
    for job in jobs:
        job.failure = error.with_traceback(None)


def _deliver(jobs: Sequence[Job]) -> None:
    """Tell those who asked, with one call into the event loop for each loop and batch."""
    counts: dict[Completion, int] = {}
    for job in jobs:
        if job.completion is not None:
            counts[job.completion] = counts.get(job.completion, 0) + 1

    def finish() -> None:
        for completion, count in counts.items():
            completion.finish(count)

    # Where the loop has ended, nobody waits any more.
    with contextlib.suppress(RuntimeError, StopIteration):
        next(iter(counts)).loop.call_soon_threadsafe(finish)
