"""Checks that a resumed run has the settings and photos that it started with."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vertebra.errors import ImageError, UsageError
from vertebra.machine import usable_cores
from vertebra.progress import Progress
from vertebra.sources.photo_place import PhotoPlace, StoredPhoto, file_of, parse_place
from vertebra.sources.shard_reader import forget_shards
from vertebra.storage import Location, StorageError

from .run_checkpoint import read_state
from .run_folder import DATA, SETTINGS, TrainError, read_rows, resume_command, table_digest
from .train_settings import FIXED, Settings

# [size in bytes, mtime in ns, ctime in ns]; of a file that is not local [size, version]
FileState = list[int | str]
_MIN_LISTED = 4  # files of one remote folder: listing it takes one request for a thousand, a state one for each


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

    Missing photos are not counted: reading them raises. Photos in files whose state equals that in `states` are not
    hashed.
    """
    rows = read_rows(folder)
    paths = [parse_place(row["path"]) for row in rows]
    if states is None or len(states) != len(paths):
        states = [None] * len(paths)
    to_hash = [
        (path, row.get("sha256") or "")
        for path, row, before, after in zip(paths, rows, states, file_states(paths), strict=True)
        if after is not None and after != before
    ]

    def is_changed(entry: tuple[PhotoPlace, str]) -> bool:
        path, digest = entry
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest() != digest
        except (OSError, ImageError):
            return False
        except StorageError as error:
            if not error.is_missing:
                raise
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


def missing_photos(folder: Path) -> list[str]:
    """Return the photos of data.csv that are not there, or whose shard is not."""
    names = [row["path"] for row in read_rows(folder)]
    states = file_states(map(parse_place, names))
    return [name for name, state in zip(names, states, strict=True) if state is None]


def file_states(paths: Iterable[PhotoPlace]) -> list[FileState | None]:
    """Return size and times of each photo's file, or of the shard that it is in; None if it is missing.

    Call it before files are read, so that a change in between is noticed.

    Raises:
        StorageError: remote storage cannot be reached.
    """
    forget_shards()
    is_shard: dict[str, bool] = {}
    places = []
    for path in paths:
        places.append(file_of(path))
        is_shard.setdefault(places[-1], isinstance(path, StoredPhoto) and bool(path.member))
    local = [file for file in is_shard if not Location(file).is_remote]
    by_folder = defaultdict(list)
    for file, has_members in is_shard.items():
        if Location(file).is_remote:
            by_folder[file if has_members else file.rpartition("/")[0]].append(file)
    with ThreadPoolExecutor(4 * usable_cores()) as pool:  # for the latency of network file systems
        found = dict(zip(local, pool.map(_local_state, local), strict=True))
        for states in pool.map(_remote_states, by_folder, by_folder.values()):
            found |= states
    return [found[place] for place in places]


def _local_state(file: str) -> FileState | None:
    try:
        status = Path(file).stat()
    except (OSError, ValueError):
        return None
    # A copy may keep the mtime; the ctime is set by the system.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _remote_states(folder: str, files: Sequence[str]) -> dict[str, FileState | None]:
    """Return the states of files in a remote folder, of many those that its list has; of a shard its version."""
    found: dict[str, FileState | None] = dict.fromkeys(files)
    try:
        if len(files) >= _MIN_LISTED:
            for entry in Location(folder).list():
                if str(entry.location) in found:
                    found[str(entry.location)] = [entry.size, str(entry.mtime_ns)]
            return found
        for file in files:
            state = Location(file).state()
            found[file] = [state.size, state.version]
    except StorageError as error:
        if not error.is_missing:
            raise
    return found
