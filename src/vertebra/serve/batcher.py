"""Images that wait, and the threads that take them: several at a time where several wait, at once where none do.

A thread does all of an image: it decodes, then runs the network over those that it took. Both leave Python while they
compute, so that one thread for each core keeps all cores busy, and decoding for one batch runs beside the network for
another. Nothing waits for a batch to fill: images gather while the threads are busy, and only then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from vertebra.errors import ImageError, VertebraError
from vertebra.pixels import Pixels
from vertebra.runtime.engine import PROBABILITIES, FloatArray

from .batch_costs import BatchCosts

log = logging.getLogger("vertebra.serve")

# The thread's own work, or pixels that a client has made itself, or something else to be done in a thread.
Decode: TypeAlias = Callable[[bytes, str], tuple[Pixels, int, int]]
Run: TypeAlias = Callable[[Pixels, Sequence[str]], list[FloatArray]]


class QueueFullError(Exception):
    """So many images wait already that this one would not be done in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:.1f} s")
        self.seconds = seconds


class BatcherClosedError(Exception):
    """A newer model has taken the place of this one: ask for it again."""


@dataclass(frozen=True)
class Clock:
    """Where a batcher has its time from."""

    now: Callable[[], float] = time.monotonic  # of arrivals and deadlines
    timer: Callable[[], float] = time.perf_counter  # of durations
    pause: Callable[[threading.Condition, float], object] = threading.Condition.wait  # so many seconds at most


@dataclass(eq=False, slots=True)
class Job:
    """One image of one request, and what became of it."""

    data: bytes | Pixels | Callable[[], Any]
    name: str = "image"
    outputs: tuple[str, ...] = (PROBABILITIES,)
    # Filled in by the thread that took it:
    values: dict[str, FloatArray] = field(default_factory=dict)  # output -> its row
    result: Any = None  # of a callable
    error: str | None = None  # what is wrong with the image
    failure: Exception | None = None  # what is wrong with us
    width: int = 0
    height: int = 0
    queue_seconds: float = 0.0
    decode_seconds: float = 0.0
    inference_seconds: float = 0.0
    batch: int = 0
    completion: Completion | None = None
    queued: float = 0.0


class Completion:
    """The jobs of one request, until all are done or nobody wants them any more."""

    def __init__(self, count: int, deadline: float) -> None:
        self.deadline = deadline  # of time.monotonic
        self.dropped = False  # read by the threads
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        self._left = count

    def finish(self, count: int) -> None:
        """So many more are done; called in the event loop."""
        self._left -= count
        if self._left <= 0 and not self.done.done():
            self.done.set_result(None)


class Batcher:
    """A bounded queue in front of a network.

    Args:
        run: pixels and names of outputs → these outputs; called by `workers` threads at a time.
        decode: the bytes of a file and its name → pixels, and width and height of the photo; raises `ImageError`.
        workers: threads.
        limit: images that may wait.
        costs: what a batch takes here, from a warm-up.
        watch: is told of each batch: its size, and the seconds of decoding and of the network.
        clock: another than the system's, for tests.
    """

    def __init__(
        self,
        run: Run,
        decode: Decode,
        *,
        workers: int,
        limit: int,
        costs: BatchCosts | None = None,
        watch: Callable[[int, float, float], None] = lambda size, decode, inference: None,
        name: str = "model",
        clock: Clock = Clock(),
    ) -> None:
        self.workers = workers
        self.limit = limit
        self.costs = costs or BatchCosts()
        self._run = run
        self._decode = decode
        self._watch = watch
        self._clock = clock
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"vertebra-{name}-{number}", daemon=True)
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
    def wait(self) -> float:
        """Seconds until an image that came now would be taken."""
        return len(self._queue) * self.costs.image / self.workers

    def check_room(self, count: int, deadline: float) -> None:
        """Whether so many images would find room and be done by then (`time.monotonic`).

        Raises:
            QueueFullError: they would not.
        """
        waiting = len(self._queue)
        wait = self.wait
        # A forecast: half as long again, and its own work, must fit.
        late = self._clock.now() + 1.5 * wait + self.costs.image > deadline
        if waiting + count > self.limit or (waiting and late):
            raise QueueFullError(wait)

    def put(self, jobs: Sequence[Job], deadline: float) -> Completion:
        """Let the jobs of a request wait; the completion's `done` is set once all are finished.

        Raises:
            QueueFullError: there is no room, or not enough time.
            BatcherClosedError: there are no threads any more.
        """
        self.check_room(len(jobs), deadline)
        # Jobs know their completion, and not the other way round: in a circle they would keep their images until the
        # garbage collector comes by.
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
        """End the threads once all that waits is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if wait:
            for thread in self._threads:
                thread.join()

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while jobs := self._next():
            try:
                if callable(jobs[0].data):
                    self._call(jobs[0])
                else:
                    self._predict(jobs)
            except Exception as error:
                # Whatever it is must reach those who wait, and the thread must live on.
                if not isinstance(error, VertebraError):
                    log.exception("a batch failed")
                _fail(jobs, error)
            _deliver(jobs)
            del jobs  # or their images would stay until others come

    def _next(self) -> list[Job]:
        """The images to do next; none: there will be no more."""
        with self._changed:
            while True:
                self._forget_late()
                if not self._queue:
                    if self._closed:
                        return []
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                    continue
                share = -(-len(self._queue) // (1 + self._idle))
                if self._worth_waiting():
                    continue
                if callable(self._queue[0].data):
                    return [self._queue.popleft()]
                jobs: list[Job] = []
                size = self.costs.size(share)
                while self._queue and len(jobs) < size and not callable(self._queue[0].data):
                    jobs.append(self._queue.popleft())
                    self._forget_late()
                return jobs

    def _forget_late(self) -> None:
        """Drop from the front what nobody waits for any more."""
        now = self._clock.now()
        while self._queue:
            completion = self._queue[0].completion
            if completion is not None and not completion.dropped and completion.deadline > now:
                return
            self._queue.popleft()

    def _worth_waiting(self) -> bool:
        """Wait a moment for one more image where that saves more than it costs; whether that was done.

        Other threads may have taken all that there was meanwhile. Never where a thread is idle: then the machine has
        nothing else to do.
        """
        if self._idle or self._closed or self.workers == 1:
            return False
        first = self._queue[0]
        moment = self.costs.worth_waiting(len(self._queue))
        waited = self._clock.now() - first.queued
        if moment <= waited:
            return False
        self._clock.pause(self._changed, moment - waited)
        return True

    def _call(self, job: Job) -> None:
        timer = self._clock.timer
        start = timer()
        job.queue_seconds = self._clock.now() - job.queued
        try:
            assert callable(job.data)  # noqa: S101 - for the type checker
            job.result = job.data()
        except ImageError as error:
            job.error = str(error)
        job.decode_seconds = timer() - start

    def _predict(self, jobs: list[Job]) -> None:
        timer = self._clock.timer
        start = timer()
        taken = self._clock.now()
        crowded = bool(self._queue) and not self._idle
        ready, pixels = [], []
        for job in jobs:
            begin = timer()
            job.queue_seconds = taken - job.queued
            if isinstance(job.data, np.ndarray):
                pixels.append(job.data)
                ready.append(job)
                continue
            try:
                found, job.width, job.height = self._decode(job.data, job.name)  # type: ignore[arg-type]
            except ImageError as error:
                job.error = str(error)
            else:
                pixels.append(found)
                ready.append(job)
            job.decode_seconds = timer() - begin
        if not ready:
            return
        outputs = sorted({name for job in ready for name in job.outputs})
        begin = timer()
        values = self._run(np.stack(pixels), outputs)
        inference = timer() - begin
        for row, job in enumerate(ready):
            # Copies: a row that is kept would keep the whole batch.
            job.values = {
                name: value[row].copy() for name, value in zip(outputs, values, strict=True) if name in job.outputs
            }
            job.inference_seconds = inference
            job.batch = len(ready)
        with self._changed:
            self.costs.measured(len(ready), inference, timer() - start, crowded)
        self._watch(len(ready), begin - start, inference)


def _fail(jobs: Sequence[Job], error: Exception) -> None:
    """Without its traceback, which would keep the images and, in a reference cycle, the jobs themselves."""
    for job in jobs:
        job.failure = error.with_traceback(None)


def _deliver(jobs: Sequence[Job]) -> None:
    """Tell those who wait, with one call into the event loop for each loop and batch."""
    tickets: dict[Completion, int] = {}
    for job in jobs:
        if job.completion is not None:
            tickets[job.completion] = tickets.get(job.completion, 0) + 1

    def finish() -> None:
        for completion, count in tickets.items():
            completion.finish(count)

    # Where the loop has ended, nobody waits any more.
    with contextlib.suppress(RuntimeError, StopIteration):
        next(iter(tickets)).loop.call_soon_threadsafe(finish)
