"""How far long work is: a bar on a terminal, and a line every ten seconds where standard error goes elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from vertebra.errors import printable
from vertebra.units import size

SECONDS = 10.0  # between two lines

# What is being done, how much of it is done, and how much there is in all (None: not known). What stands before a colon
# names the step.
Tell: TypeAlias = Callable[[str, int, int | None], None]


class Pace:
    """How far a step is, how fast it is, and when it will be done.

    Rate and time left are judged by the speed of this step alone, and by what was done of it since it began.
    """

    def __init__(self, what: str, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begin(what, 0)

    def _begin(self, what: str, done: int) -> None:
        self._step, self._start, self._first = what.partition(":")[0], self._now(), done
        self.what, self.done, self.total = what, done, None if done == 0 else done

    def show(self, what: str, done: int, total: int | None) -> bool:
        """Take in how far it is; whether a new step has begun."""
        begins = what.partition(":")[0] != self._step or done < self.done
        if begins:
            self._begin(what, done)
        self.what, self.done, self.total = what, done, total
        return begins

    @property
    def seconds(self) -> float:
        """Since the step began."""
        return self._now() - self._start

    @property
    def rate(self) -> float:
        """What is done in a second; 0 as long as nothing is."""
        return (self.done - self._first) / max(self.seconds, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds until it is done; None where that cannot be told."""
        return None if self.total is None or not self.rate else max(0, self.total - self.done) / self.rate

    def line(self, amount: Callable[[int], str] = "{:,}".format) -> str:
        """All that in one line; `amount` writes a number of what is counted."""
        if self.total in (None, 0, 1) and not self.done:
            return f"{self.what}: {duration(self.seconds)} so far"
        parts = [f"{self.what}: {amount(self.done)}" + ("" if self.total is None else f" of {amount(self.total)}")]
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
def progress(what: str, *, bar: bool = True, in_bytes: bool = False, transient: bool = True) -> Iterator[Tell]:
    """Around long work: gives what to call with how far it is.

    Args:
        what: the name of the first step, until another one is told.
        bar: False where a terminal shows enough without.
        in_bytes: whether bytes are counted.
        transient: whether the bar is gone afterwards.
    """
    pace = Pace(what)
    if not sys.stderr.isatty():
        with _lines(pace, size if in_bytes else "{:,}".format) as tell:
            yield tell
    elif bar:
        with _bar(pace, in_bytes, transient) as tell:
            yield tell
    else:
        yield lambda what, done, total: None


@contextmanager
def _lines(pace: Pace, amount: Callable[[int], str]) -> Iterator[Tell]:
    """A thread of its own tells of steps, too, that say nothing for long."""
    ended, stream = threading.Event(), sys.stderr

    def work() -> None:
        while not ended.wait(SECONDS):
            stream.write(f"vertebra: {printable(pace.line(amount))}\n")
            stream.flush()

    thread = threading.Thread(target=work, name="vertebra-progress", daemon=True)

    def tell(what: str, done: int, total: int | None) -> None:
        pace.show(what, done, total)

    thread.start()
    try:
        yield tell
    finally:
        ended.set()
        thread.join()


@contextmanager
def _bar(pace: Pace, in_bytes: bool, transient: bool) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), TextColumn("{task.fields[rate]:.3g}/s"))
    if in_bytes:
        counts = (DownloadColumn(), TransferSpeedColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=transient) as shown:
        task = shown.add_task(printable(pace.what), total=None, rate=0.0)

        def tell(what: str, done: int, total: int | None) -> None:
            if pace.show(what, done, total):
                shown.reset(task)
            shown.update(task, description=printable(what), completed=done, total=total, rate=pace.rate)

        yield tell
