"""A bar with rate and time left on a terminal's stderr; nothing where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vertebra.errors import printable


@contextmanager
def progress_bar(*, show: bool = True) -> Iterator[Callable[[str, int, int | None], None]]:
    """Gives what to call with the step, what is done of it, and how much it has in all (None: not known)."""
    if not show or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]:.3g}/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, rate=0.0)
        current, start = "", time.perf_counter()

        def show_step(what: str, done: int, total: int | None) -> None:
            nonlocal current, start
            step = what.partition(":")[0]
            if step != current:
                # Rate and time left are judged by the speed of this step alone.
                bar.reset(task)
                current, start = step, time.perf_counter()
            rate = done / max(time.perf_counter() - start, 1e-9)
            bar.update(task, description=printable(what), completed=done, total=total, rate=rate)

        yield show_step
