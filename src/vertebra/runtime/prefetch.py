"""Photos are read and decoded ahead by several threads; results in order, a bounded number in memory.

Decoding and inference both leave Python while they compute, so threads that each do a whole chunk, decoding and then
running the network, keep all cores busy without handing pixels from one to another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")

READERS = 4  # threads more than work at a time: some read while others work
WINDOW = 64  # chunks that are read and not given out yet: what limits the photos in memory
_JOIN_TIMEOUT = 2.0  # seconds in which threads may end what they are at


def read_ahead(
    items: Iterable[T],
    read: Callable[[Sequence[T]], S],
    work: Callable[[S], Sequence[R]],
    *,
    workers: int,
    chunk: int,
) -> Iterator[R]:
    """As `in_order`, for work on what must be read first, from a disk or a network that may be slow.

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
) -> Iterator[R]:
    """`work` applied to `chunk` items at a time by `workers` threads; the results come in the order of the items.

    At most `window` chunks are read but not yet given out, whatever the consumer does meanwhile. An exception of
    `work` or `items` is raised here, after the results before it; when the consumer stops, so do the threads.
    """
    state: _State[T, R] = _State(iter(items), chunk, window)
    threads = [threading.Thread(target=state.serve, args=(work,), daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield from state.results()
    finally:
        state.stop()
        # Threads that wait for a download or for standard input must not hold up Ctrl-C, however many they are.
        end = time.monotonic() + _JOIN_TIMEOUT
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


class _State(Generic[T, R]):
    """What the threads share; `changed` guards all of it."""

    def __init__(self, items: Iterator[T], chunk: int, window: int) -> None:
        self.items = items
        self.chunk = chunk
        self.window = window
        self.changed = threading.Condition()
        # Reading the list is guarded apart: a list on standard input may wait for its writer.
        self.reading = threading.Lock()
        self.done: dict[int, Sequence[R] | BaseException] = {}
        self.taken = 0  # chunks read
        self.given = 0  # chunks given out
        self.total: int | None = None  # chunks in all, once that is known
        self.stopped = False

    def serve(self, work: Callable[[Sequence[T]], Sequence[R]]) -> None:
        """One thread: take a chunk, do it, put the results down, until there is no more."""
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
        """Everything in order, as soon as it is there."""
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
        """Let the threads end after the chunk that they are at."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
