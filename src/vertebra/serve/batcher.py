"""A model's queue and the worker threads that decode its images and run them in batches.

A worker takes a batch from the queue, decodes its images and runs the network on them. Both release Python's global
interpreter lock, so one worker per core keeps all cores busy, and one batch is decoded while another is inferred. Batch
sizes are decided in `batch_costs.py`, the limits of the queue in `queue_limit.py`.
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
    """A newer model has replaced this one; look it up again."""


class Batcher:
    """A bounded queue in front of a network.

    Args:
        infer: maps pixels and output names to these outputs; called by the worker threads.
        num_workers: the number of worker threads.
        max_images: the most images in the queue.
        costs: the times of batches that the warm-up has measured.
        on_batch: called after each batch with its size, its decoding time and its inference time in seconds.
        now: clock for arrivals and deadlines.
        timer: clock for durations.
        wait: waits until notified, for at most the given seconds.
    """

    def __init__(
        self,
        infer: Infer,
        *,
        num_workers: int,
        max_images: int,
        costs: BatchCosts | None = None,
        on_batch: Callable[[int, float, float], None] = lambda size, decoding, inference: None,
        name: str = "model",
        now: Callable[[], float] = time.monotonic,
        timer: Callable[[], float] = time.perf_counter,
        wait: Callable[[threading.Condition, float], object] = threading.Condition.wait,
    ) -> None:
        self.num_workers = num_workers
        self.max_images = max_images
        self.costs = costs or BatchCosts()
        self._infer = infer
        self._on_batch = on_batch
        self._now, self._timer, self._wait = now, timer, wait
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._num_idle = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run_worker, name=f"vertebra-{name}-{number}", daemon=True)
            for number in range(num_workers)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError:
            self.close(wait=False)  # no more threads can be started; those that run would keep the network in memory
            raise

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def num_busy(self) -> int:
        """The number of workers that are decoding or inferring."""
        return self.num_workers - self._num_idle

    @property
    def queue_load(self) -> QueueLoad:
        """The state of the queue, by which images are accepted."""
        return QueueLoad(len(self._queue), self.max_images, self.costs.seconds_per_image, self.num_workers)

    def require_room(self, count: int, deadline: float) -> None:
        """`QueueLoad.require_room` with a deadline in seconds of `time.monotonic`."""
        self.queue_load.require_room(count, deadline - self._now())

    def submit(self, jobs: Sequence[Job], deadline: float) -> Completion:
        """Queue the jobs of a request; the result's `done` is set when all are finished.

        Raises:
            QueueFullError: as `QueueLoad.require_room` does.
            BatcherClosedError: the batcher has been closed.
        """
        self.require_room(len(jobs), deadline)
        completion = Completion(len(jobs), deadline)
        now = self._now()
        for job in jobs:
            job.completion, job.queued_at = completion, now
        with self._changed:
            if self._closed:
                raise BatcherClosedError
            self.costs.record_arrival(now, len(jobs))
            self._queue.extend(jobs)
            self._changed.notify(len(jobs))
        return completion

    def close(self, wait: bool = True) -> None:
        """Let the workers finish what is queued, then end them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if wait:
            for thread in self._threads:
                thread.join()

    def _run_worker(self) -> None:
        while jobs := self._next_batch():
            try:
                self._run_batch(jobs)
            except Exception as error:
                # The requests get the error; the worker continues.
                if not isinstance(error, VertebraError):
                    log.exception("a batch failed")
                _set_failure(jobs, error)
            _complete_requests(jobs)
            del jobs  # otherwise their images would stay in memory until the next batch

    def _next_batch(self) -> list[Job]:
        """The jobs of the next batch; waits for them. Empty once the batcher is closed and its queue is empty."""
        with self._changed:
            while True:
                self._discard_inactive()
                if not self._queue:
                    if self._closed:
                        return []
                    self._num_idle += 1
                    self._changed.wait()
                    self._num_idle -= 1
                elif (seconds := self._seconds_to_wait()) > 0:
                    self._wait(self._changed, seconds)
                else:
                    break
            count = self.costs.next_batch_size(len(self._queue), self._num_idle)
            jobs: list[Job] = []
            while self._queue and len(jobs) < count:
                jobs.append(self._queue.popleft())
                self._discard_inactive()
            return jobs

    def _seconds_to_wait(self) -> float:
        """How long to wait for one more image before a batch starts.

        A worker waits only if a larger batch saves more time than the wait costs, and never while another worker is
        idle.
        """
        if self._num_idle or self._closed or self.num_workers == 1:
            return 0.0
        return self.costs.seconds_worth_waiting(len(self._queue)) - (self._now() - self._queue[0].queued_at)

    def _discard_inactive(self) -> None:
        """Remove cancelled and expired jobs from the front of the queue."""
        now = self._now()
        while self._queue and not (self._queue[0].completion and self._queue[0].completion.is_active(now)):
            self._queue.popleft()

    def _run_batch(self, jobs: list[Job]) -> None:
        """Decode and infer a batch, and store each job's outputs."""
        start = self._timer()
        taken = self._now()
        is_saturated = bool(self._queue) and not self._num_idle
        decoded = self._decode(jobs, taken)
        if not decoded:
            return
        ready = [job for job, _ in decoded]
        outputs = sorted({name for job in ready for name in job.outputs})
        begin = self._timer()
        values = self._infer(np.stack([pixels for _, pixels in decoded]), outputs)
        inference = self._timer() - begin
        for row, job in enumerate(ready):
            # Copies: a view would keep the whole batch in memory.
            job.values = {
                name: value[row].copy() for name, value in zip(outputs, values, strict=True) if name in job.outputs
            }
            job.inference_seconds = inference
            job.batch_size = len(ready)
        with self._changed:
            self.costs.record_batch(len(ready), inference, self._timer() - start, is_saturated)
        self._on_batch(len(ready), begin - start, inference)

    def _decode(self, jobs: list[Job], taken: float) -> list[tuple[Job, Pixels]]:
        """The jobs whose images can be decoded, with their pixels; the others get an error."""
        found = []
        for job in jobs:
            job.queue_seconds = taken - job.queued_at
            begin = self._timer()
            try:
                image = job.decode()
            except ImageError as error:
                job.error = str(error)
            else:
                job.width, job.height, job.context = image.width, image.height, image.context
                found.append((job, image.pixels))
            job.decode_seconds = self._timer() - begin
        return found


def _set_failure(jobs: Sequence[Job], error: Exception) -> None:
    for job in jobs:
        job.failure = error.with_traceback(None)  # the traceback refers to the jobs: a reference cycle


def _complete_requests(jobs: Sequence[Job]) -> None:
    """Report a batch's jobs as done to their requests, with one call into the event loop."""
    counts: dict[Completion, int] = {}
    for job in jobs:
        if job.completion is not None:
            counts[job.completion] = counts.get(job.completion, 0) + 1

    def finish() -> None:
        for completion, count in counts.items():
            completion.mark_done(count)

    # A closed event loop has no requests left.
    with contextlib.suppress(RuntimeError, StopIteration):
        next(iter(counts)).loop.call_soon_threadsafe(finish)
