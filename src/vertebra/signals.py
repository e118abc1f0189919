"""SIGTERM and SIGHUP as exceptions, so that files are closed and a message is printed. Unrelated to early stopping."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

# SIGHUP is sent when a terminal closes; Windows has none.
TERMINATION_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

REPEAT_SECONDS = 2.0  # between an interrupt and the next, if the first was passed over


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP; handled like Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = 128 + number  # as in a shell


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """Raise `Terminated` for these signals in the block; a second one ends the process immediately.

    Ignored signals (`nohup`) stay ignored. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != process:  # a fork: its parent asks it to end
            signal.raise_signal(number)
        raise Terminated(number)

    with signal_handler(end, TERMINATION_SIGNALS):
        yield


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """End the block at an interrupt, also where other code makes another error of it or passes over it.

    Where Ctrl-C comes while a lock is taken, a `RuntimeError` may be raised instead; within a callback of importing or
    of a garbage collection, Python prints the exception and goes on. So it is raised again. Main thread only.
    """
    stops: list[KeyboardInterrupt] = []
    ended = threading.Event()
    numbers = (signal.SIGINT, *TERMINATION_SIGNALS)
    before = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}

    def note(number: int, frame: FrameType | None) -> None:
        if stops:
            raise stops[0]
        try:
            before[number](number, frame)
        except KeyboardInterrupt as stop:
            stops.append(stop)
            threading.Thread(target=repeat, daemon=True).start()
            raise

    def repeat() -> None:
        while not ended.wait(REPEAT_SECONDS):  # to this thread, which may wait for a lock
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with signal_handler(note, before):
        try:
            yield
        except Exception:
            if stops:
                raise stops[0] from None
            raise
        finally:
            ended.set()
        if stops:
            raise stops[0]


@contextmanager
def signal_handler(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers, numbers: Iterable[int]
) -> Iterator[None]:
    """Handle these signals with `handler` in the block, except ignored ones; main thread only."""
    # None: set by code that is not Python, which cannot be restored.
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
