"""`BoundedFolder`: a folder of copies that is bounded in size; the least recently used are deleted to make room.

VERTEBRA_REMOTE_CACHE_GB (20) bounds each such folder, and so does the disk. A copy is a file, or a folder that holds
one. Several processes may make room at once. A file that is deleted while it is open or mapped stays readable to those
that have it open (not on Windows, where it stays).
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vertebra.errors import UsageError
from vertebra.units import GIGA, size

from .errors import StorageError

_DEFAULT_GB = 20.0
_ABANDONED_SECONDS = 3_600.0  # since a temporary file was written last: the process that wrote it was killed


class _Copy(NamedTuple):
    used: float  # when it was used or written last, in seconds since 1970
    bytes: int
    path: str
    is_temporary: bool  # being written, or left by a process that was killed


@dataclass(frozen=True)
class BoundedFolder:
    """Copies in a folder; hidden files there, and in the folder of a copy, are locks and what is being written.

    A file was last used at its atime or mtime, whichever is later, and a copy in a folder of its own at that folder's
    mtime.
    """

    path: Path
    in_use: float = 0.0  # seconds after its last use in which a copy is not deleted
    suffix: str = ""  # of the copies; other files are left alone
    disk_share: float = 0.5  # of what the copies have and what is free
    parts: int = 1  # folders of this kind that share the bound

    def limit(self) -> float:
        """Return how many bytes the copies may have together now."""
        return self._limit(sum(copy.bytes for copy in self._copies()))

    def make_room(self, needed: int) -> bool:
        """Delete the least recently used copies until `needed` bytes fit; False: too many are in use.

        For what is larger than the limit, nothing is deleted.
        """
        copies = sorted(self._copies())
        used = sum(copy.bytes for copy in copies)
        limit = self._limit(used)
        for copy in copies if needed <= limit else ():
            if used + needed <= limit:
                break
            # Looked at again: it may have been used since.
            if self._is_unused(copy) and self._is_unused(_copy(copy.path) or copy) and delete_copy(copy.path):
                used -= copy.bytes
        return used + needed <= limit

    def require_room(self, needed: int, what: object) -> None:
        """Make room for `needed` bytes, as far as no copy in use is in the way.

        Raises:
            StorageError: `what` is larger than the limit (`is_full`).
        """
        if not self.make_room(needed) and needed > (limit := self.limit()):
            raise StorageError(
                f"{what} has {size(needed)}, and the cache in {self.path} may take {size(limit)}. Make room on the "
                f"disk, set VERTEBRA_REMOTE_CACHE_GB={math.ceil(needed / GIGA) + 1}, or name another folder by "
                "VERTEBRA_CACHE.",
                is_full=True,
            )

    def _copies(self) -> Iterator[_Copy]:
        with contextlib.suppress(OSError):  # it is not there yet
            for entry in os.scandir(self.path):
                if entry.name.endswith(self.suffix) and (copy := _copy(entry.path)) is not None:
                    yield copy

    def _limit(self, used: int) -> float:
        try:
            free = shutil.disk_usage(self.path).free
        except OSError:
            free = 1 << 62
        return min(cache_limit(), (free + used * self.parts) * self.disk_share) / self.parts

    def _is_unused(self, copy: _Copy) -> bool:
        seconds = max(self.in_use, _ABANDONED_SECONDS) if copy.is_temporary else self.in_use
        return time.time() - copy.used >= seconds


def _copy(path: str) -> _Copy | None:
    """Describe a copy; None where another process has just deleted it."""
    try:
        status = os.stat(path)  # noqa: PTH116 - of thousands
        if not stat.S_ISDIR(status.st_mode):
            is_temporary = os.path.basename(path).startswith(".")  # noqa: PTH119
            return _Copy(max(status.st_atime, status.st_mtime), status.st_size, path, is_temporary)
        files = [(entry.name, entry.stat()) for entry in os.scandir(path)]
    except OSError:
        return None
    written = [each.st_mtime for name, each in files if name.startswith(".") and not name.endswith(".lock")]
    return _Copy(max([status.st_mtime, *written]), sum(each.st_size for _, each in files), path, bool(written))


def delete_copy(path: str | Path) -> bool:
    """Delete a copy, with its folder unless a process waits for a lock in it; False where that is not allowed."""
    path = Path(path)
    try:
        for file in path.iterdir() if path.is_dir() else [path]:
            if not file.name.endswith(".lock"):
                file.unlink(missing_ok=True)
    except FileNotFoundError:  # another process was first
        return True
    except OSError:
        return False
    with contextlib.suppress(OSError):
        path.rmdir()
    return True


def cache_limit() -> float:
    """Return how many bytes a folder of copies may have, as VERTEBRA_REMOTE_CACHE_GB says.

    Raises:
        UsageError: that is no number.
    """
    given = os.environ.get("VERTEBRA_REMOTE_CACHE_GB")
    try:
        limit = float(given) if given else _DEFAULT_GB
    except ValueError:
        limit = math.nan
    if not 0 < limit < 1e6:
        raise UsageError(f"VERTEBRA_REMOTE_CACHE_GB is {given!r}; give a number of GB, such as 50.")
    return limit * GIGA
