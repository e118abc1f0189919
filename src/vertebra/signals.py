"""Signals that ask a process to end, raised as an exception, so that files are closed and a message is printed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

# SIGHUP is sent where a terminal closes; Windows has none.
TERMINATION_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, handled wherever Ctrl-C is."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = 128 + number  # as in a shell


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """Inside, the signals raise `Terminated`; a second one ends the process at once.

    What is ignored (`nohup`) stays ignored. In a thread, which gets no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != process:  # forked inside: it ends, as its parent asks
            signal.raise_signal(number)
        raise Terminated(number)

    with signal_handler(end, TERMINATION_SIGNALS):
        yield


@contextmanager
def signal_handler(handler: Callable[[int, FrameType | None], None], numbers: Iterable[int]) -> Iterator[None]:
    """Inside, these signals go to `handler`, but for those that are ignored; in the main thread alone."""
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
