"""The part of the cache that holds copies of shards: bounded, and what was not used for longest is deleted first."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from vertebra.cache import cache_dir, checksum, creation_lock
from vertebra.errors import UsageError
from vertebra.files import atomic_write
from vertebra.storage import StorageError

VARIABLE = "VERTEBRA_SHARD_CACHE"
_DEFAULT = "20GB"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_ABANDONED = 86_400.0  # seconds after which what a killed process was writing is deleted


def cache_limit() -> int:
    """Return how many bytes the copies may have together.

    Raises:
        UsageError: the environment variable is no size.
    """
    text = os.environ.get(VARIABLE) or _DEFAULT
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(|KB|MB|GB|TB)\s*", text, re.IGNORECASE)
    if found is None:
        raise UsageError(f"{VARIABLE} is {text!r}; it must be a size, such as 20GB.")
    return int(float(found[1]) * _UNITS[found[2].upper()])


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
            f"{what} has {size / 1e9:.1f} GB, and copies of shards may take {limit / 1e9:.1f} GB on this machine. Set "
            f"{VARIABLE} to more, such as {VARIABLE}={max(1, round(4 * size / 1e9))}GB."
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
