"""`local_copy`: remote files on this machine, in a part of the cache that is bounded in size.

A copy is kept by URI and version, below `remote` in VERTEBRA_CACHE. Of several processes and threads that ask for a
file at once, one downloads it and the others wait.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from vertebra.cache import cache_dir, creation_lock, fingerprint, scratch_dir
from vertebra.files import atomic_write

from .bounded_folder import BoundedFolder, delete_copy
from .errors import StorageError, storage_error
from .file_state import FileState
from .location import Location
from .remote_file import RemoteFile

_OPENED_SECONDS = 60.0  # after it was given out, in which a copy is not deleted, as it may not have been opened yet
_TRIES = 3  # for a file that changes while it is downloaded


def local_copy(location: Location, waiting: Callable[[], None] = lambda: None) -> Path:
    """Return a local file with the content of a location; of a local one its own path.

    Asks for the file's version (one request) and downloads it unless that version is in the cache. Open the file soon:
    after a minute it may be deleted to make room for another.

    Args:
        location: a file.
        waiting: called once before it waits for another process that downloads the same file.

    Raises:
        StorageError: it cannot be read, or there is no room for it (`is_full`).
    """
    if not location.is_remote:
        location.state()  # raises for one that is missing
        return location.path
    for attempt in range(_TRIES):
        try:
            return _cached(location, location.state(), waiting)
        except _ChangedError:
            if attempt == _TRIES - 1:
                break
    raise StorageError(f"{location} changes while it is read. Try again when it is no longer written.")


def fetch_verified(location: Location, sha256: str) -> Path:
    """Return a `local_copy` whose content has this SHA-256 (64 hex digits).

    Raises:
        StorageError: it has another one, or cannot be read.
    """
    path = local_copy(location)
    found = fingerprint(path)
    if found != sha256 and location.is_remote:  # damaged on this disk, perhaps
        path.unlink(missing_ok=True)
        path = local_copy(location)
        found = fingerprint(path)
    if found != sha256:
        raise StorageError(
            f"{location} has the SHA-256 {found[:16]}…, and {sha256[:16]}… is expected: it has been replaced or "
            "damaged. Put back the file, or name the one that is meant."
        )
    return path


class _ChangedError(Exception):
    """The file has changed between the question for its version and the end of the download."""


def _cached(location: Location, state: FileState, waiting: Callable[[], None]) -> Path:
    key = hashlib.sha256(f"{location.uri}\0{state.version}\0{state.size}".encode("utf-8", "surrogateescape"))
    for root in (cache_dir() / "remote", scratch_dir() / "remote"):
        folder = root / key.hexdigest()[:32]
        path = folder / _file_name(location)
        if _is_whole(path, state):
            _touch(folder)
            return path
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):  # a read-only cache: for this process alone
                continue
            raise storage_error(error, str(folder), "made") from error
        with creation_lock(path, waiting):
            if not _is_whole(path, state):  # else another process was first
                delete_copy(folder)  # what a killed download has left
                BoundedFolder(root, in_use=_OPENED_SECONDS).require_room(state.size, location)
                _download(location, state, path)
        _touch(folder)
        return path
    raise StorageError(f"{location} cannot be copied: {cache_dir()} and the folder for temporary files are read-only.")


def _download(location: Location, state: FileState, path: Path) -> None:
    """Download a file to `path`, whole or not at all."""
    try:
        with RemoteFile(location.uri) as source:
            if source.state != state:
                raise _ChangedError
            with atomic_write(path) as temporary, temporary.open("r+b") as file:
                file.truncate(state.size)  # others that make room count it
                for part in source.parts():
                    file.write(part)
    except OSError as error:
        delete_copy(path.parent)
        found = storage_error(error, str(path), "written")
        if found.is_full:
            raise StorageError(
                f"{location} cannot be copied to {path.parent.parent}: the disk is full. Make room there, or name "
                "another folder by VERTEBRA_CACHE.",
                is_full=True,
            ) from error
        raise found from error
    except BaseException:
        delete_copy(path.parent)
        raise


def _is_whole(path: Path, state: FileState) -> bool:
    try:
        return path.stat().st_size == state.size
    except OSError:
        return False


def _file_name(location: Location) -> str:
    """The name of the copy: the file's own, unless no local file may have it."""
    name = location.name
    fits = name not in ("", ".", "..") and not name.startswith(".") and len(os.fsencode(name)) <= 200
    return name if fits and name.isprintable() and os.name != "nt" else f"file{location.suffix[:16]}"


def room_for_copies() -> float:
    """Return how many bytes the copies that `local_copy` makes may have together now."""
    root = cache_dir() / "remote"
    root.mkdir(parents=True, exist_ok=True)
    return BoundedFolder(root).limit()


def _touch(folder: Path) -> None:
    # The folder's time, as the file's own would tell those who watch it that it has changed.
    with contextlib.suppress(OSError):
        os.utime(folder)
