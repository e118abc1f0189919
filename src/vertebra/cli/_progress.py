"""A bar on a terminal's stderr for work of several steps; nothing where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vertebra.errors import printable


@contextmanager
def progress_bar(*, show: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Gives what to call with the step, what is done of it, and how much it has in all."""
    if not show or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        current = ""

        def show_step(what: str, done: int, total: int) -> None:
            nonlocal current
            step = what.partition(":")[0]
            if step != current:
                # The time left is judged by the speed of this step alone.
                bar.reset(task)
                current = step
            bar.update(task, description=printable(what), completed=done, total=total)

        yield show_step
