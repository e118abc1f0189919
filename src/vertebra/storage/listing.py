"""Lists a folder and all below it in a fixed order, folder by folder.

Hidden files (a name that begins with a dot) and folders that systems make are left out, as `vertebra.photo_files` has
it. Local folders come in the order of their names, as everywhere; remote files in the order of the bytes of their
keys, which is that of S3. Of a remote prefix one folder's names are in memory at a time, and four that are listed
ahead: pyarrow has some 500 bytes for each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vertebra.errors import warn
from vertebra.photo_files import (
    FolderPath,
    LinkCycleError,
    SkippedFolderError,
    is_broken_link,
    is_folder,
    is_hidden_or_system,
    is_system_folder,
    list_folder,
)

from .bounded_calls import Call
from .errors import StorageError, storage_error, storage_errors
from .file_systems import open_file_system, remote_seconds

_AHEAD = 4  # subfolders that are listed meanwhile
_LIST_SECONDS = 3600.0  # for one remote folder: a thousand names a request, each of which is bounded by itself

File = tuple[str, int, int]  # path or URI, bytes, modification time in ns
OnSkipped = Callable[[str, StorageError], None]  # gets the place and the reason


def list_local(folder: Path, on_skipped: OnSkipped | None) -> Iterator[File]:
    """Yield the files of a local folder."""
    os.scandir(folder).close()  # of the folder itself an error is raised
    yield from _walk(str(folder), FolderPath(os.path.realpath(folder)), on_skipped)


def _walk(folder: str, above: FolderPath, on_skipped: OnSkipped | None) -> Iterator[File]:
    try:
        inside, below = list_folder(folder, above)
    except LinkCycleError as circle:
        warn(f"{folder} {circle}: it is not followed.")
        return
    except SkippedFolderError as error:
        _skip(folder, f"{folder} {error}.", on_skipped)
        return
    for entry in inside:
        if is_hidden_or_system(entry):
            continue
        if is_folder(entry):
            yield from _walk(entry.path, below, on_skipped)
        elif is_broken_link(entry):
            _skip(entry.path, f"{entry.path} is a link to nothing.", on_skipped)
        else:  # also a pipe, which a reader names
            try:
                status = entry.stat()
            except OSError as error:  # deleted meanwhile
                _skip(entry.path, str(storage_error(error, entry.path, "read")), on_skipped)
                continue
            yield entry.path, status.st_size, status.st_mtime_ns


def _skip(place: str, reason: str, on_skipped: OnSkipped | None) -> None:
    error = StorageError(reason)
    if on_skipped is None:
        raise error
    on_skipped(place, error)


def list_remote(uri: str, on_skipped: OnSkipped | None) -> Iterator[File]:
    """Yield the files below a prefix."""
    scheme = uri.partition("://")[0]
    system, path = Call(lambda: open_file_system(uri), remote_seconds()).result()
    yield from _walk_remote(scheme, system, path, on_skipped, _start(system, path))


def _start(system: Any, path: str) -> Call[list[tuple[bytes, bool, str, int, int]]]:
    """Start to list a folder: (sort key, is a folder?, path, size, time) of each name in it."""
    from pyarrow import fs

    def run() -> list[tuple[bytes, bool, str, int, int]]:
        found = []
        for info in system.get_file_info(fs.FileSelector(path)):
            is_prefix = info.type == fs.FileType.Directory
            key = info.path.encode() + b"/" * is_prefix
            found.append((key, is_prefix, info.path, int(info.size or 0), int(info.mtime_ns or 0)))
        return sorted(found)

    return Call(run, _LIST_SECONDS)


def _walk_remote(scheme: str, system: Any, path: str, on_skipped: OnSkipped | None, call: Call[Any]) -> Iterator[File]:
    with storage_errors(f"{scheme}://{path}", "listed"):
        found = [entry for entry in call.result() if not _is_hidden(path, entry[2], entry[1])]
    folders = [inner for _, is_prefix, inner, _, _ in found if is_prefix and len(inner.rstrip("/")) > len(path)]
    ahead: dict[str, Call[Any]] = {}
    for _, is_prefix, inner, size, time in found:
        if not is_prefix:
            yield f"{scheme}://{inner}", size, time
        elif len(inner.rstrip("/")) <= len(path):  # pyarrow opens nothing in it, and lists it again as its parent
            place = f"{scheme}://{path}//"
            reason = f"{place} is a folder without a name, which is not supported. Copy what is in it to another."
            _skip(place, reason, on_skipped)
        else:
            for other in folders[:_AHEAD]:
                if other not in ahead:
                    ahead[other] = _start(system, other)
            folders.pop(0)
            yield from _walk_remote(scheme, system, inner, on_skipped, ahead.pop(inner))


def _is_hidden(folder: str, path: str, is_prefix: bool) -> bool:
    name = path[len(folder) :].strip("/")
    return name.startswith(".") or (is_prefix and is_system_folder(name))
