"""`read_kept`: remote files that are read again and again, such as photos in each epoch, by copies in the cache.

Unlike `local_copy`, of many small files in a random order: a full cache keeps the copies it has, and reads the other
files from where they are. Each epoch reads every file once, so that deleting the least recently used copies would
delete each just before it is needed. Copies that nobody has read for a day make room.

They are below `files` in VERTEBRA_CACHE, and VERTEBRA_REMOTE_CACHE_GB bounds their sum, of which each of 64 folders
has its share. The version of a file is asked for once a command (`ask_again`), and known to the workers that it starts:
a copy's mtime is when its version was asked for last, and its atime when it was read.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from vertebra.cache import cache_dir, checksum
from vertebra.files import atomic_write

from .bounded_folder import BoundedFolder
from .file_state import FileState
from .location import Location
from .remote_file import RemoteFile

_FOLDERS = 64
_UNREAD_SECONDS = 86_400.0  # after which a copy may make room for another
_READ_SECONDS = 3_600.0  # so often a copy's time of reading is noted at most
_DIGEST = 16  # bytes: a copy is a digest of the file's version, one of its content, and the content

_asked_since = time.time()


def ask_again() -> None:
    """Ask anew whether the files are those that were copied, as at the start of a command."""
    global _asked_since
    _asked_since = time.time()


@dataclass(frozen=True)
class _Copy:
    version: bytes
    content: bytes
    asked: float  # when it was found to be the file's present version
    read: float


def read_kept(location: Location) -> bytes:
    """Return the content of a file; a remote one is read from its copy, and copied where there is room.

    Raises:
        StorageError: it cannot be read.
    """
    if not location.is_remote:
        return location.read_bytes()
    path = _path(location)
    copy, now = _read_copy(path), time.time()
    if copy is not None and _asked_since <= copy.asked <= now:
        if now - copy.read > _READ_SECONDS:
            _set_times(path, read=now, asked=copy.asked)
        return copy.content
    with cast(RemoteFile, location.open()) as file:
        version = _version(file.state)
        if copy is not None and copy.version == version:
            _set_times(path, read=now, asked=now)
            return copy.content
        content = file.readall()
    if version is not None:
        _write_copy(path, version + checksum(content) + content, now)
    return content


def _path(location: Location) -> Path:
    name = checksum(location.uri.encode("utf-8", "surrogateescape")).hex()
    return cache_dir() / "files" / f"{int(name[:2], 16) % _FOLDERS:02}" / name


def _version(state: FileState) -> bytes | None:
    """Return what tells a version of a file from the others; None where the storage says none."""
    return None if state.version in ("", "0", "None") else checksum(f"{state.size} {state.version}")


def _read_copy(path: Path) -> _Copy | None:
    """Return a copy; None if there is none, or it is damaged."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            version, digest, content = file.read(_DIGEST), file.read(_DIGEST), file.read()
    except OSError:
        return None
    if checksum(content) != digest:
        return None
    return _Copy(version, content, status.st_mtime, max(status.st_atime, status.st_mtime))


def _write_copy(path: Path, content: bytes, asked: float) -> None:
    """Write a copy where there is room; a cache that cannot be written costs only time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if BoundedFolder(path.parent, in_use=_UNREAD_SECONDS, parts=_FOLDERS).make_room(len(content)):
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
                os.utime(temporary, (asked, asked))


def _set_times(path: Path, read: float, asked: float) -> None:
    with contextlib.suppress(OSError):
        os.utime(path, (read, asked))
