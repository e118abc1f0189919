"""Reads single photos of shards and Parquet files, in any order and by several threads.

A plain tar on this machine is read where it lies. Others are copied into the cache first, which is bounded: a remote
shard as it is, a Parquet file as the photos of its rows, since a row cannot be read without those before it.
"""

from __future__ import annotations

import functools
import os
import struct
import threading
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import IO

from vertebra.errors import ImageError
from vertebra.storage import Location
from vertebra.storage.kept_files import ask_again
from vertebra.storage.local_cache import local_copy

from .parquet_bytes import parquet_photos
from .reading import reading
from .shard_cache import open_cached
from .tar_shards import tar_index

_OPEN = 64  # shards that are kept open

_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


class _Shard:
    """An open file and where the photos are in it: by name, or by row."""

    def __init__(self, file: IO[bytes], spans: Mapping[str, tuple[int, int]]) -> None:
        self._file = file
        self._spans = spans
        self._lock = threading.Lock()

    def read(self, name: str, member: str) -> bytes:
        """Return the bytes of a photo; `name` is for errors."""
        if member not in self._spans:
            raise ImageError(f"{name} is missing: the shard has no such photo")
        offset, size = self._spans[member]
        if hasattr(os, "pread"):
            content = os.pread(self._file.fileno(), size, offset)
        else:  # Windows
            with self._lock:
                self._file.seek(offset)
                content = self._file.read(size)
        if len(content) < size:
            raise ImageError(f"{name} is cut off: the shard ends before it does")
        return content

    def __del__(self) -> None:
        self._file.close()


def read_member(file: str, member: str) -> bytes:
    """Return the bytes of a photo in a shard, or of a row of a Parquet file: `17`, or `image:17` with its column.

    Raises:
        ImageError: there is no such photo, or it is cut off.
        StorageError: the file is missing, damaged or cannot be reached.
    """
    column, member_of = "", member
    if file.lower().endswith(".parquet"):
        column, _, member_of = member.rpartition(":")
    with _locks[file]:
        shard = _opened(file, column, _local_state(file))
    return shard.read(f"{file}::{member}", member_of)


def copy_shard(file: str, member: str) -> None:
    """Copy a shard to the cache, so that reading its photos need not wait; `member` is one of them.

    Raises:
        StorageError: it cannot be read, or there is no room for it.
    """
    location = Location(file)
    if location.suffix == ".parquet":
        _opened_parquet(location, member.rpartition(":")[0] or None)
    else:
        local_copy(location)


def shard_bytes(file: str) -> int:
    """Return the size of a shard, of which its copy has about as much."""
    return Location(file).state().size


def forget_shards() -> None:
    """Close all shards, so that remote files that have changed are copied anew."""
    _opened.cache_clear()
    ask_again()


def is_copied(file: str) -> bool:
    """Whether a shard is copied to the cache when it is read: all but tar files on this machine."""
    return Location(file).is_remote or file.lower().endswith(".parquet")


def _local_state(file: str) -> tuple[int, int] | None:
    """Return what tells that a local file has changed; a remote one is asked for only when it is opened."""
    if Location(file).is_remote:
        return None
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=_OPEN)
def _opened(file: str, column: str, state: tuple[int, int] | None) -> _Shard:
    location = Location(file)
    if location.suffix == ".parquet":
        return _opened_parquet(location, column or None)
    spans = {member.name: (member.offset, member.size) for member in tar_index(location)}
    with reading(location):
        return _Shard(local_copy(location).open("rb"), spans)


def _opened_parquet(location: Location, column: str | None) -> _Shard:
    """Open the copy of a Parquet file's photos: one behind the other, then the end of each and their number."""
    state = location.state()

    def write(target: IO[bytes]) -> None:
        photos = parquet_photos(location, column)
        ends, end = [], 0
        for row in range(len(photos)):
            content = photos.read(row) or b""
            target.write(content)
            ends.append(end := end + len(content))
        photos.close()
        target.write(struct.pack(f"<{len(ends) + 1}q", *ends, len(ends)))

    key = f"photos {column} of {location} {state.size} {state.version}"
    file = open_cached(key, state.size, str(location), write)
    file.seek(-8, os.SEEK_END)
    (rows,) = struct.unpack("<q", file.read(8))
    file.seek(-8 * (rows + 1), os.SEEK_END)
    ends = struct.unpack(f"<{rows}q", file.read(8 * rows))
    return _Shard(file, {str(row): (begin, end - begin) for row, (begin, end) in enumerate(pairwise((0, *ends)))})
