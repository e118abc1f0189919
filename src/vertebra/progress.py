"""Progress of long work: a call of a `Progress`, which from Python may be any function.

The command line shows a bar on a terminal, and a line every ten seconds where standard error goes elsewhere.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from vertebra.errors import printable
from vertebra.units import size

SECONDS = 10.0  # between two lines


class Progress(Protocol):
    """What long work calls as it advances."""

    def __call__(self, task: str, done: int = 0, total: int | None = None, /) -> None:
        """`done` of `total` (None: not known) of a task, whose name before a colon is the step."""


def silent(task: str, done: int = 0, total: int | None = None, /) -> None:
    """A `Progress` that shows nothing."""


class Pace:
    """How far a task is, how fast it is, and when it will be done; rate and time left are those of the current step."""

    def __init__(self, task: str, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._step, self.done = "", 1  # of none, so that this begins one
        self.update(task, 0, None)

    def update(self, task: str, done: int, total: int | None) -> bool:
        """Take in how far it is; whether a new step has begun."""
        step = task.partition(":")[0]
        begins = step != self._step or done < self.done
        if begins:
            self._step, self._start, self._first = step, self._now(), done
        self.task, self.done, self.total = task, done, total
        return begins

    @property
    def seconds(self) -> float:
        """Since the step began."""
        return self._now() - self._start

    @property
    def rate(self) -> float:
        """Done per second since the step began; 0 as long as nothing is."""
        return (self.done - self._first) / max(self.seconds, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds until it is done; None where it is unknown."""
        return None if self.total is None or not self.rate else max(0, self.total - self.done) / self.rate

    def line(self, amount: Callable[[int], str] = "{:,}".format) -> str:
        """All that in one line; `amount` writes a number of what is counted."""
        if self.total in (None, 0, 1) and not self.done:
            return f"{self.task}: {duration(self.seconds)} so far"
        parts = [f"{self.task}: {amount(self.done)}" + ("" if self.total is None else f" of {amount(self.total)}")]
        if self.rate:
            whole = round(self.rate) >= 10
            parts.append(f"{amount(round(self.rate)) if whole or amount is size else format(self.rate, '.2g')}/s")
        parts.append(f"{duration(self.seconds)} so far" if self.left is None else f"about {duration(self.left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """`"8 s"`, `"3 min 20 s"`, `"2 h 5 min"`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def progress_bar(task: str, *, bar: bool = True, in_bytes: bool = False, transient: bool = True) -> Iterator[Progress]:
    """Around long work: shows its progress on standard error, and yields what to call as it advances.

    Args:
        task: shown until the first call.
        bar: False: nothing on a terminal.
        in_bytes: whether bytes are counted.
        transient: whether the bar disappears afterwards.
    """
    pace = Pace(task)
    if not sys.stderr.isatty():
        with _lines(pace, size if in_bytes else "{:,}".format) as progress:
            yield progress
    elif bar:
        with _bar(pace, in_bytes, transient) as progress:
            yield progress
    else:
        yield silent


@contextmanager
def _lines(pace: Pace, amount: Callable[[int], str]) -> Iterator[Progress]:
    """A thread of its own writes them, also while a step makes no call."""
    ended, stream = threading.Event(), sys.stderr

    def work() -> None:
        while not ended.wait(SECONDS):
            stream.write(f"vertebra: {printable(pace.line(amount))}\n")
            stream.flush()

    thread = threading.Thread(target=work, name="vertebra-progress", daemon=True)

    def update(task: str, done: int = 0, total: int | None = None) -> None:
        pace.update(task, done, total)

    thread.start()
    try:
        yield update
    finally:
        ended.set()
        thread.join()


@contextmanager
def _bar(pace: Pace, in_bytes: bool, transient: bool) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    counts: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), TextColumn("{task.fields[rate]:.3g}/s"))
    if in_bytes:
        counts = (DownloadColumn(), TransferSpeedColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    # What is printed meanwhile goes above the bar, but into a file where standard output is one.
    above = sys.stdout.isatty()
    with Bars(*columns, console=Console(stderr=True), transient=transient, redirect_stdout=above) as shown:
        row = shown.add_task(printable(pace.task), total=None, rate=0.0)

        def update(task: str, done: int = 0, total: int | None = None) -> None:
            if pace.update(task, done, total):
                shown.reset(row)
            shown.update(row, description=printable(task), completed=done, total=total, rate=pace.rate)

        yield update
