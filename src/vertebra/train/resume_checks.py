"""Checks that a resumed run has the settings and photos that it started with."""

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

FileState = list[int]  # [size in bytes, mtime in ns, ctime in ns]


def reject_changed_settings(settings: Settings, folder: Path) -> None:
    """Reject changes of settings that are fixed during a run."""

    def plain(value: Any) -> Any:  # a checkpoint has lists where settings have tuples
        return list(value) if isinstance(value, tuple) else value

    # Settings that did not exist when the run started had their default value.
    before = asdict(Settings(data=settings.data)) | read_state(folder).settings
    if changed := [name for name in FIXED if plain(before[name]) != plain(getattr(settings, name))]:
        raise UsageError(
            f"{folder / SETTINGS} has another {' and '.join(changed)} than the run started with: "
            f"{', '.join(f'{name} was {before[name]!r}' for name in changed)}. Put it back, or start a new run."
        )


def reject_changed_photos(
    folder: Path, table: str | None, states: Sequence[FileState | None] | None, progress: Progress
) -> None:
    """Reject photos that differ from those at the start, given by `table_digest` and `file_states`."""
    if table not in (None, table_digest(folder)):
        raise TrainError(
            f"{folder / DATA} has other photos, labels or splits than the run started with. Put it back, or start a "
            "new run."
        )
    if changed := changed_photos(folder, states, progress):
        raise TrainError(
            f"{changed} since the run started, and a run keeps the photos that it started with. Put back what was "
            f"there (its SHA-256 is in {folder / DATA}) and run: {resume_command(folder)}. Or start a new run."
        )


def changed_photos(
    folder: Path, states: Sequence[FileState | None] | None, progress: Progress, max_names: int = 3
) -> str:
    """Return a phrase that names photos whose content has changed since the run started; empty if none has.

    Missing photos are not counted: reading them raises. Files whose state equals that in `states` are not hashed.
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
    names = ", ".join(changed[:max_names]) + (", …" if len(changed) > max_names else "")
    if len(changed) == 1:
        return f"a photo has been changed ({names})"
    return f"{len(changed):,} photos have been changed ({names})" if changed else ""


def file_states(paths: Iterable[Path]) -> list[FileState | None]:
    """Return size and times of each file; None if it is missing.

    Call it before files are read, so that a change in between is noticed.
    """

    def state(path: Path) -> FileState | None:
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        # A copy may keep the mtime; the ctime is set by the system.
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]

    with ThreadPoolExecutor(4 * usable_cores()) as pool:  # for the latency of network file systems
        return list(pool.map(state, paths))
