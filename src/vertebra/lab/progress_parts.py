"""Progress of work in several parts of about equal length, as one task."""

from __future__ import annotations

from vertebra.progress import Progress


def part_of(progress: Progress, part: int, parts: int) -> Progress:
    """The progress to give to part number `part`, from 0, of `parts`."""

    def advance(task: str, done: int = 0, total: int | None = None, /) -> None:
        progress(task, part * total + done if total else done, total and parts * total)

    return advance
