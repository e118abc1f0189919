"""A model's queue and its worker threads: several images at a time where several are queued, at once where none are.

A thread does all of an image: it decodes, then runs the network over those that it took. Both leave Python while they
compute, so that one thread for each core keeps all cores busy, and decoding for one batch runs beside the network for
another. How many images a batch takes is decided in `batch_costs.py`, the limits of the queue in `queue_limit.py`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from vertebra.errors import ImageError, VertebraError
from vertebra.pixels import Pixels
from vertebra.runtime.engine import FloatArray

from .batch_costs import BatchCosts
from .job import Completion, Job
from .queue_limit import QueueLoad

log = logging.getLogger("vertebra.serve")

Infer: TypeAlias = Callable[[Pixels, Sequence[str]], list[FloatArray]]


class BatcherClosedError(Exception):
    """A newer model has taken the place of this one: ask for it again."""


class Batcher:
    """A bounded queue in front of a network.

    Args:
        infer: pixels and names of outputs → these outputs; called by `workers` threads at a time.
        workers: threads.
        limit: images in the queue at most.
        costs: what a batch takes here, from a warm-up.
        observe: called after each batch: its size, and the seconds of decoding and of the network.
        now: the clock of arrivals and deadlines.
        timer: the clock of durations.
        wait: waits for a change, so many seconds at most.
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
        now: Callable[[], float] = time.monotonic,
        timer: Callable[[], float] = time.perf_counter,
        wait: Callable[[threading.Condition, float], object] = threading.Condition.wait,
    ) -> None:
        self.workers = workers
        self.limit = limit
        self.costs = costs or BatchCosts()
        self._infer = infer
        self._observe = observe
        self._now, self._timer, self._wait = now, timer, wait
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
        """Check for room for images whose deadline is that (`time.monotonic`).

        Raises:
            QueueFullError: there is no room, or not enough time.
        """
        self.load.admit(count, deadline - self._now())

    def put(self, jobs: Sequence[Job], deadline: float) -> Completion:
        """Queue the jobs of a request; the completion's `done` is set once all are finished.

        Raises:
            QueueFullError: there is no room, or not enough time.
            BatcherClosedError: there are no threads any more.
        """
        self.admit(len(jobs), deadline)
        completion = Completion(len(jobs), deadline)
        now = self._now()
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

    def _work(self) -> None:
        while jobs := self._next_batch():
            try:
                self._predict(jobs)
            except Exception as error:
                # The requests get the error, and the thread goes on.
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
                if not self._queue:
                    if self._closed:
                        return []
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                elif (seconds := self._seconds_to_gather()) > 0:
                    self._wait(self._changed, seconds)
                else:
                    break
            count = self.costs.take(len(self._queue), self._idle)
            jobs: list[Job] = []
            while self._queue and len(jobs) < count:
                jobs.append(self._queue.popleft())
                self._drop_unwanted()
            return jobs

    def _seconds_to_gather(self) -> float:
        """How long to wait for one more image.

        Images gather while all threads are busy, and only then. The exception is a moment where that saves more than
        it costs, and never while a thread is idle: then the machine has nothing else to do.
        """
        if self._idle or self._closed or self.workers == 1:
            return 0.0
        return self.costs.worth_waiting(len(self._queue)) - (self._now() - self._queue[0].queued)

    def _drop_unwanted(self) -> None:
        """Remove cancelled and late jobs from the front."""
        now = self._now()
        while self._queue and not (self._queue[0].completion and self._queue[0].completion.is_wanted(now)):
            self._queue.popleft()

    def _predict(self, jobs: list[Job]) -> None:
        """Decode, infer, and give each job its rows."""
        start = self._timer()
        taken = self._now()
        is_saturated = bool(self._queue) and not self._idle
        decoded = self._decode(jobs, taken)
        if not decoded:
            return
        ready = [job for job, _ in decoded]
        outputs = sorted({name for job in ready for name in job.outputs})
        begin = self._timer()
        values = self._infer(np.stack([pixels for _, pixels in decoded]), outputs)
        inference = self._timer() - begin
        for row, job in enumerate(ready):
            # Copies: a row that is kept would keep the whole batch.
            job.values = {
                name: value[row].copy() for name, value in zip(outputs, values, strict=True) if name in job.outputs
            }
            job.inference_seconds = inference
            job.batch = len(ready)
        with self._changed:
            self.costs.measured(len(ready), inference, self._timer() - start, is_saturated)
        self._observe(len(ready), begin - start, inference)

    def _decode(self, jobs: list[Job], taken: float) -> list[tuple[Job, Pixels]]:
        """Those of the jobs whose images can be read, with their pixels; the others get their error."""
        found = []
        for job in jobs:
            job.queue_seconds = taken - job.queued
            begin = self._timer()
            try:
                image = job.decode()
            except ImageError as error:
                job.error = str(error)
            else:
                job.width, job.height, job.kept = image.width, image.height, image.kept
                found.append((job, image.pixels))
            job.decode_seconds = self._timer() - begin
        return found


def _fail(jobs: Sequence[Job], error: Exception) -> None:
    """Without its traceback, which would keep the images and, in a reference cycle, the jobs themselves."""
    for job in jobs:
        job.failure = error.with_traceback(None)


def _deliver(jobs: Sequence[Job]) -> None:
    """Finish the completions of a batch with one call into the event loop."""
    counts: dict[Completion, int] = {}
    for job in jobs:
        if job.completion is not None:
            counts[job.completion] = counts.get(job.completion, 0) + 1

    def finish() -> None:
        for completion, count in counts.items():
            completion.finish(count)

    # A loop that has ended has no requests left.
    with contextlib.suppress(RuntimeError, StopIteration):
        next(iter(counts)).loop.call_soon_threadsafe(finish)
