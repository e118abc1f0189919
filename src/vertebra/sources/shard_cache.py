"""The part of the cache that holds the photos of Parquet files, whose rows cannot be read in any order where they lie.

As of copies of remote files, VERTEBRA_REMOTE_CACHE_GB bounds their sum, and the least recently used are deleted first.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from vertebra.cache import cache_dir, checksum, creation_lock
from vertebra.files import atomic_write
from vertebra.storage import StorageError
from vertebra.storage.local_cache import cache_limit
from vertebra.units import GIGA
from vertebra.units import size as size_text

_ABANDONED = 86_400.0  # seconds after which what a killed process was writing is deleted


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
    path = folder / f"{checksum(key).hex()}.shard"
    while True:
        with contextlib.suppress(FileNotFoundError):
            file = path.open("rb")
            with contextlib.suppress(OSError):
                os.utime(path)
            return file
        with creation_lock(path):
            if path.exists():
                continue
            _make_room(folder, size, what)
            try:
                with atomic_write(path) as temporary, temporary.open("wb") as target:
                    write(target)
            except OSError as error:
                raise StorageError(
                    f"{what} cannot be copied to the cache {folder} ({error.strerror or error}). Make room, or set "
                    "VERTEBRA_CACHE to a folder on a larger disk."
                ) from error


def _make_room(folder: Path, size: int, what: str) -> None:
    """Delete the copies that were not used for longest, until `size` bytes are free."""
    limit = cache_limit()
    if size > limit:
        raise StorageError(
            f"{what} has {size_text(size)}, and copies of the photos in such files may take {size_text(int(limit))}. "
            f"Set VERTEBRA_REMOTE_CACHE_GB={math.ceil(4 * size / GIGA)}.",
            is_full=True,
        )
    files = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                status = entry.stat()
                if not entry.name.endswith(".shard"):
                    continue  # a lock
                if not entry.name.startswith("."):
                    files.append((status.st_mtime, status.st_size, entry.path))
                elif time.time() - status.st_mtime > _ABANDONED:
                    os.unlink(entry.path)  # noqa: PTH108 - of an entry
    total = sum(each for _, each, _ in files)
    for _, each, path in sorted(files):
        if total + size <= limit:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - open files can be read on
        total -= each
