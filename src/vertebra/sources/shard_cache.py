"""Copies of the photos of Parquet files, whose rows cannot be read in any order where they lie."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import IO

from vertebra.cache import cache_dir, checksum, creation_lock
from vertebra.files import atomic_write
from vertebra.storage import StorageError
from vertebra.storage.bounded_folder import BoundedFolder

_SUFFIX = ".shard"  # beside them are the indexes of shards


def open_cached(key: str, size: int, what: str, write: Callable[[IO[bytes]], None]) -> IO[bytes]:
    """Open the copy that `key` stands for, which `write` writes if there is none; one process at a time does.

    Args:
        key: tells it from all others, also from earlier versions of the same.
        size: bytes that it will have, about.
        what: the shard, for errors.
        write: writes it.

    Raises:
        StorageError: it is larger than the cache, or the disk is full.
    """
    folder = cache_dir() / "shards"
    path = folder / f"{checksum(key).hex()}{_SUFFIX}"
    while True:
        with contextlib.suppress(FileNotFoundError):
            file = path.open("rb")
            with contextlib.suppress(OSError):
                os.utime(path)
            return file
        with creation_lock(path):
            if path.exists():
                continue
            # Of the disk all: without a copy, such photos cannot be read.
            BoundedFolder(folder, suffix=_SUFFIX, disk_share=1.0).require_room(size, what)
            try:
                with atomic_write(path) as temporary, temporary.open("wb") as target:
                    target.truncate(size)  # others that make room count it
                    write(target)
                    target.truncate()
            except OSError as error:
                raise StorageError(
                    f"{what} cannot be copied to the cache {folder} ({error.strerror or error}). Make room, or set "
                    "VERTEBRA_CACHE to a folder on a larger disk."
                ) from error
