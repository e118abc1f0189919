"""Whether a run that goes on has the settings and the photos that it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vertebra.errors import UsageError
from vertebra.machine import usable_cores
from vertebra.progress import Progress

from .run_checkpoint import read_state
from .run_folder import DATA, SETTINGS, TrainError, read_rows, resume_command, table_digest
from .train_settings import FIXED, Settings

FileState = list[int]  # bytes, and the times of the last change of the content and of the file, in ns


def refuse_changed_settings(settings: Settings, folder: Path) -> None:
    """Refuse to go on with settings that have changed and cannot change in the middle of a run."""

    def plain(value: Any) -> Any:  # a checkpoint has lists where settings have tuples
        return list(value) if isinstance(value, tuple) else value

    # What was not known yet when the run began had its default value.
    before = asdict(Settings(data=settings.data)) | read_state(folder).settings
    if changed := [name for name in FIXED if plain(before[name]) != plain(getattr(settings, name))]:
        raise UsageError(
            f"{folder / SETTINGS} has another {' and '.join(changed)} than the run began with: "
            f"{', '.join(f'{name} was {before[name]!r}' for name in changed)}. Put it back, or start a new run."
        )


def refuse_changed_photos(
    folder: Path, table: str | None, states: Sequence[FileState | None] | None, progress: Progress
) -> None:
    """Refuse to learn from other photos than the run began with, whose table's digest and files' states are given."""
    if table not in (None, table_digest(folder)):
        raise TrainError(
            f"{folder / DATA} has other photos, labels or splits than the run began with. Put it back, or start a new "
            "run."
        )
    if changed := changed_photos(folder, states, progress):
        raise TrainError(
            f"{changed} since the run began, and a run goes on with what it began with. Put back what was there (its "
            f"SHA-256 is in {folder / DATA}) and run: {resume_command(folder)}. Or start a new run."
        )


def changed_photos(folder: Path, states: Sequence[FileState | None] | None, progress: Progress, most: int = 3) -> str:
    """That photos of a run have another content than when it began, with the names of the first; or nothing.

    Those that are gone are not among them: whoever reads them says so. Where the state of a file is the same as in
    `states`, its content is not read.
    """
    rows = read_rows(folder)
    paths = [Path(row["path"]) for row in rows]
    if states is None or len(states) != len(paths):
        states = [None] * len(paths)
    to_hash = [
        (path, row.get("sha256") or "")
        for path, row, before, after in zip(paths, rows, states, file_states(paths), strict=True)
        if after is not None and after != before
    ]

    def is_changed(entry: tuple[Path, str]) -> bool:
        path, digest = entry
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() != digest
        except OSError:
            return False

    changed = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for done, (entry, differs) in enumerate(zip(to_hash, pool.map(is_changed, to_hash), strict=True)):
            progress("checking the photos", done, len(to_hash))
            if differs:
                changed.append(str(entry[0]))
    names = ", ".join(changed[:most]) + (", …" if len(changed) > most else "")
    if len(changed) == 1:
        return f"a photo has been changed ({names})"
    return f"{len(changed):,} photos have been changed ({names})" if changed else ""


def file_states(paths: Iterable[Path]) -> list[FileState | None]:
    """What tells each file from another in its place; None for one that is not there.

    Taken before a file is read: one that changes in between is noticed, and hashed once more.
    """

    def state(path: Path) -> FileState | None:
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        # A copy may keep the time of its content; that of the file itself is the system's own.
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]

    with ThreadPoolExecutor(4 * usable_cores()) as pool:  # on a network file system each one waits
        return list(pool.map(state, paths))
