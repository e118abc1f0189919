"""Whether the photos of a run are still those that it began with: by size and times, and by hash where these differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vertebra.machine import usable_cores
from vertebra.progress import Progress

from .run_folder import read_rows

State = list[int]  # bytes, and the times of the last change of the content and of the file, in ns


def states_of(paths: Iterable[Path]) -> list[State | None]:
    """What tells each file from another in its place; None for one that is not there.

    Taken before a file is read: one that changes in between is noticed, and hashed once more.
    """

    def state(path: Path) -> State | None:
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        # A copy may keep the time of its content; that of the file itself is the system's own.
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]

    with ThreadPoolExecutor(4 * usable_cores()) as pool:  # on a network file system each one waits
        return list(pool.map(state, paths))


def changed_photos(folder: Path, states: Sequence[State | None] | None, progress: Progress) -> list[Path]:
    """The photos of a run that have another content than when it began.

    Those that are gone are not among them: whoever reads them says so.

    Args:
        folder: of the run, with the table of its photos.
        states: of each, as `states_of` gave them; where it is the same as now, the content is not read.
        progress: called with the files hashed, and how many have to be.
    """
    rows = read_rows(folder)
    paths = [Path(row["path"]) for row in rows]
    if states is None or len(states) != len(paths):
        states = [None] * len(paths)
    doubtful = [
        (path, row.get("sha256") or "")
        for path, row, before, after in zip(paths, rows, states, states_of(paths), strict=True)
        if after is not None and after != before
    ]

    def is_another(entry: tuple[Path, str]) -> bool:
        path, digest = entry
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() != digest
        except OSError:
            return False

    found = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for done, (entry, another) in enumerate(zip(doubtful, pool.map(is_another, doubtful), strict=True)):
            progress("checking the photos", done, len(doubtful))
            if another:
                found.append(entry[0])
    return found
