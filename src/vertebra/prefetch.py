"""Ordered, bounded parallel map over photos, which are read ahead by several threads.

Decoding and inference release the GIL, so threads that each decode and predict a whole chunk keep all cores busy
without passing pixels between threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")

READERS = 4  # extra threads, which read while others work
WINDOW = 64  # chunks that are read but not yielded: limits the photos in memory
_JOIN_TIMEOUT = 2.0  # seconds in which threads may finish their chunk


def read_ahead(
    items: Iterable[T],
    read: Callable[[Sequence[T]], S],
    work: Callable[[S], Sequence[R]],
    *,
    workers: int,
    chunk: int,
) -> Iterator[R]:
    """Map in order as `in_order` does, for items that are first read from a possibly slow disk or network.

    There are `READERS` more threads than `workers`, so that some read while others work. No more than `workers` work
    at a time, or they would push each other off the cores: 137 images/s of EfficientNet-Lite0 on two cores, and 125 to
    131 where a third thread worked as well.
    """
    turns = threading.Semaphore(workers)

    def both(part: Sequence[T]) -> Sequence[R]:
        found = read(part)
        with turns:
            return work(found)

    return in_order(items, both, workers=workers + READERS, chunk=chunk)


def in_order(
    items: Iterable[T],
    work: Callable[[Sequence[T]], Sequence[R]],
    *,
    workers: int,
    chunk: int,
    window: int = WINDOW,
) -> Generator[R, None, None]:
    """Apply `work` to `chunk` items at a time in `workers` threads; yield results in the order of the items.

    At most `window` chunks are read but not yet yielded. An exception of
    `work` or `items` is raised here, after the results before it; when the consumer stops, so do the threads.
    """
    state: _State[T, R] = _State(iter(items), chunk, window)
    threads = [threading.Thread(target=state.serve, args=(work,), daemon=True) for _ in range(workers)]
    try:
        for thread in threads:
            thread.start()
        yield from state.results()
    finally:
        state.stop()
        # Threads that wait for a download or for standard input must not delay Ctrl-C.
        end = time.monotonic() + _JOIN_TIMEOUT
        for thread in threads:
            if thread.is_alive():  # Ctrl-C may have come before it was started
                thread.join(max(0.0, end - time.monotonic()))


class _State(Generic[T, R]):
    """State shared by the threads, guarded by `changed`."""

    def __init__(self, items: Iterator[T], chunk: int, window: int) -> None:
        self.items = items
        self.chunk = chunk
        self.window = window
        self.changed = threading.Condition()
        # A separate lock for reading items: standard input may block.
        self.reading = threading.Lock()
        self.done: dict[int, Sequence[R] | BaseException] = {}
        self.taken = 0  # chunks read
        self.given = 0  # chunks given out
        self.total: int | None = None  # chunks in all, once that is known
        self.stopped = False

    def serve(self, work: Callable[[Sequence[T]], Sequence[R]]) -> None:
        """Run one thread: process chunks until there are none left."""
        while True:
            with self.reading:
                with self.changed:
                    while not self.stopped and self.total is None and self.taken - self.given >= self.window:
                        self.changed.wait()
                    if self.stopped or self.total is not None:
                        return
                number = self.taken
                try:
                    chunk = list(islice(self.items, self.chunk))
                except BaseException as error:
                    self._end(number, error)
                    return
                if not chunk:
                    self._end(number, None)
                    return
                self.taken += 1
            try:
                result: Sequence[R] | BaseException = work(chunk)
            except BaseException as error:
                result = error
            with self.changed:
                self.done[number] = result
                self.changed.notify_all()
            if isinstance(result, BaseException):
                return

    def _end(self, number: int, error: BaseException | None) -> None:
        with self.changed:
            if error is not None:
                self.done[number] = error
                self.taken += 1
            self.total = self.taken
            self.changed.notify_all()

    def results(self) -> Iterator[R]:
        """Yield results in order, as soon as they are ready."""
        while True:
            with self.changed:
                while self.given not in self.done and self.given != self.total:
                    self.changed.wait()
                if self.given == self.total and self.given not in self.done:
                    return
                result = self.done.pop(self.given)
            if isinstance(result, BaseException):
                raise result
            yield from result
            with self.changed:
                self.given += 1
                self.changed.notify_all()

    def stop(self) -> None:
        """Make the threads end after their current chunk."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
