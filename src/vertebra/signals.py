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
    """Raise the interrupt that came in the block, where other code has made another error of it.

    A lock that is being taken when Ctrl-C comes may raise a `RuntimeError` instead. Main thread only.
    """
    stops: list[KeyboardInterrupt] = []
    numbers = (signal.SIGINT, *TERMINATION_SIGNALS)
    before = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}

    def note(number: int, frame: FrameType | None) -> None:
        try:
            before[number](number, frame)
        except KeyboardInterrupt as stop:
            stops.append(stop)
            raise

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
