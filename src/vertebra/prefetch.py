"""Ordered, bounded parallel map over photos, which are read ahead by several threads.

Decoding and inference release the GIL, so threads that each decode and predict a whole chunk keep all cores busy
without passing pixels between threads. Every other thread that wakes takes the GIL or a core from one of them, so there
are no more threads than work needs, and the consumer is woken for many results at a time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

from vertebra.errors import VertebraError

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")

READERS = 4  # extra threads, which read while others work
WINDOW = 64  # chunks that are read but not yielded: limits the photos in memory
_PAUSE = 0.02  # seconds between two looks for results by a consumer that is faster than the work
_JOIN_TIMEOUT = 2.0  # seconds in which threads may finish their chunk


def read_ahead(
    items: Iterable[T],
    read: Callable[[Sequence[T]], S],
    work: Callable[[S], Sequence[R]],
    *,
    workers: int,
    chunk: int | Callable[[int], int],
    is_slow: Callable[[Sequence[T]], bool] = lambda part: True,
) -> Iterator[R]:
    """Map in order as `in_order` does, for items that are first read from a possibly slow disk or network.

    From the first chunk that `is_slow` to read, there are `READERS` more threads than `workers`, so that some read
    while others work. No more than `workers` work at a time, or they would push each other off the cores: 137 images/s
    of EfficientNet-Lite0 on two cores, and 125 to 131 where a third thread worked as well.
    """
    turns = threading.Semaphore(workers)

    def both(part: Sequence[T]) -> Sequence[R]:
        found = read(part)
        with turns:
            return work(found)

    return _results(_State(iter(items), both, chunk, WINDOW, lambda part: workers + READERS * is_slow(part)), workers)


def in_order(
    items: Iterable[T],
    work: Callable[[Sequence[T]], Sequence[R]],
    *,
    workers: int,
    chunk: int | Callable[[int], int],
    window: int = WINDOW,
) -> Generator[R, None, None]:
    """Apply `work` to `chunk` items at a time in `workers` threads; yield results in the order of the items.

    A `chunk` that is a function is given how many items were read and returns how many to read next.

    At most `window` chunks are read but not yet yielded. An exception of
    `work` or `items` is raised here, after the results before it; when the consumer stops, so do the threads.
    """
    return _results(_State(iter(items), work, chunk, window, lambda part: workers), workers)


def _results(state: _State[T, R], workers: int) -> Generator[R, None, None]:
    try:
        state.require_own_process()
        state.start(workers)
        for part in state.results():
            yield from part
            state.require_own_process()
    finally:
        state.stop()


class _State(Generic[T, R]):
    """State shared by the threads, guarded by `lock`."""

    def __init__(
        self,
        items: Iterator[T],
        work: Callable[[Sequence[T]], Sequence[R]],
        chunk: int | Callable[[int], int],
        window: int,
        threads_for: Callable[[Sequence[T]], int],
    ) -> None:
        self.items = items
        self.work = work
        self.chunk_after = chunk if callable(chunk) else lambda read: chunk
        self.window = window
        self.threads_for = threads_for  # a chunk: started before it is worked on, where there are fewer
        self.lock = threading.Lock()
        self.ready = threading.Condition(self.lock)  # the consumer may go on
        self.room = threading.Condition(self.lock)  # a thread may read on
        # A separate lock for reading items: standard input may block.
        self.reading = threading.Lock()
        self.threads: list[threading.Thread] = []
        self.done: dict[int, Sequence[R] | BaseException] = {}
        self.read = 0  # items
        self.taken = 0  # chunks read
        self.given = 0  # chunks given out
        self.total: int | None = None  # chunks in all, once that is known
        self.pausing = False  # the consumer lets results accumulate
        self.stopped = False
        self.process = os.getpid()

    def require_own_process(self) -> None:
        """Raise a `VertebraError` in a process that was forked since: it has none of the threads."""
        if os.getpid() != self.process:
            raise VertebraError(
                "these results were begun in the process that this one was forked from, whose threads are not here. "
                "Begin them in the process that reads them."
            )

    def start(self, count: int) -> None:
        """Start threads until there are `count`."""
        with self.lock:
            while not self.stopped and len(self.threads) < count:
                self.threads.append(threading.Thread(target=self._serve, daemon=True))
                self.threads[-1].start()

    def _serve(self) -> None:
        """Run one thread: process chunks until there are none left."""
        while True:
            with self.reading:
                with self.lock:
                    while not self.stopped and self.total is None and self.taken - self.given >= self.window:
                        self.room.wait()
                    if self.stopped or self.total is not None:
                        return
                number = self.taken
                chunk: list[T] = []
                try:
                    for item in islice(self.items, self.chunk_after(self.read)):
                        chunk.append(item)  # kept where a later one raises
                    if not chunk:
                        self._end(number, None)
                except BaseException as error:
                    if not isinstance(error, Exception):  # to stop at once
                        chunk.clear()
                    self._end(number + bool(chunk), error)
                if not chunk:
                    return
                self.read += len(chunk)
                self.taken += 1
            try:
                self.start(self.threads_for(chunk))
                result: Sequence[R] | BaseException = self.work(chunk)
            except BaseException as error:
                result = error
            with self.lock:
                self.done[number] = result
                if self._has_many() or (not self.pausing and self.given in self.done):
                    self.ready.notify()
            if isinstance(result, BaseException):
                return

    def _end(self, number: int, error: BaseException | None) -> None:
        with self.lock:
            if error is not None:
                self.done[number] = error
            self.total = number + (error is not None)
            self.ready.notify()

    def _has_many(self) -> bool:
        """Whether the consumer should not wait for more results: they are half of the window, or the last ones."""
        return self.total is not None or 2 * len(self.done) >= self.window

    def results(self) -> Iterator[Sequence[R]]:
        """Yield results in order, by chunks: the first as soon as they are ready, others at most `_PAUSE` later."""
        woken = -_PAUSE
        while True:
            with self.lock:
                if self.given not in self.done:
                    self.pausing = True
                    self.ready.wait_for(self._has_many, max(0.0, woken + _PAUSE - time.monotonic()))
                    self.pausing = False
                    while self.given not in self.done and self.given != self.total:
                        self.ready.wait()
                    if self.given not in self.done:
                        return
                    woken = time.monotonic()
                result = self.done.pop(self.given)
            if isinstance(result, BaseException):
                raise result
            yield result
            with self.lock:
                self.given += 1
                self.room.notify()

    def stop(self) -> None:
        """Make the threads end after their current chunk, and wait for that."""
        if os.getpid() != self.process:  # a thread that is not here may hold the lock
            return
        with self.lock:
            self.stopped = True
            self.room.notify_all()
        # Threads that wait for a download or for standard input must not delay Ctrl-C.
        end = time.monotonic() + _JOIN_TIMEOUT
        for thread in self.threads:
            if thread.is_alive():  # Ctrl-C may have come before it was started
                thread.join(max(0.0, end - time.monotonic()))
