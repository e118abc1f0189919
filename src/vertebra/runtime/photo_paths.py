"""Photos from command-line arguments: files, folders, patterns, web addresses, or a list on standard input.

The order is deterministic: arguments as given, within a folder by name.
"""

from __future__ import annotations

import codecs
import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from io import BufferedIOBase
from pathlib import Path

from vertebra.errors import warn
from vertebra.file_kinds import Kind, describe_skipped
from vertebra.missing_photos import MissingPhotos
from vertebra.photo_download import is_url
from vertebra.photo_files import (
    SUFFIXES,
    FolderPath,
    is_folder,
    is_system_folder,
    list_or_reason,
    skipped_kind,
    walk_photos,
)

from .photo import Photo

STANDARD_INPUT = "-"
_CHUNK = 1 << 16  # bytes


def photos(
    arguments: Iterable[str], stdin: BufferedIOBase | None = None, missing: MissingPhotos | None = None
) -> Iterator[Photo]:
    """Yield the photos of arguments; folders are searched recursively.

    Arguments are files, folders, patterns such as `'shots/**/*.jpg'`, web addresses, or `-` (if `stdin` is given) for a
    list of these without patterns, one per line or ended by NUL, as `find -print0` writes them.
    `missing` explains the paths of no file; None: a new one.
    """
    missing = missing or MissingPhotos()
    for argument in arguments:
        if argument == STANDARD_INPUT and stdin is not None:
            for line in read_list(stdin):
                yield from _expand_path(line, missing)
        elif glob.has_magic(argument) and not is_url(argument) and not os.path.lexists(argument):
            yield from _expand_pattern(argument, missing)
        else:
            yield from _expand_path(argument, missing)


def read_list(stream: BufferedIOBase) -> Iterator[str]:
    """Yield the names of a list as soon as they have come; empty ones are skipped. Names may be any bytes.

    Where a NUL comes with the first of them, names are ended by NULs, and line breaks are parts of names; elsewhere
    each line is a name. A byte order mark at the start, as Windows writes it, selects UTF-8 or UTF-16.
    """
    chunks = iter(lambda: stream.read1(_CHUNK), b"")
    start = b""
    for chunk in chunks:
        start += chunk
        if b"\n" in chunk or b"\0" in chunk:
            break
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in start.partition(b"\n")[0]:
        # Decoded as a whole: lines of UTF-16 do not end at newline bytes.
        yield from filter(None, re.split(r"[\r\n]+", (start + stream.read()).decode("utf-16", "replace")))
        return
    names = _split_at_nuls(start, chunks) if b"\0" in start else _split_lines(start, chunks)
    first = next(names)
    if first.startswith(codecs.BOM_UTF8) and not os.path.lexists(first):
        first = first.removeprefix(codecs.BOM_UTF8)
    yield from map(os.fsdecode, filter(None, itertools.chain([first], names)))


def _split_at_nuls(rest: bytes, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Split a list of names that are ended by NULs; what comes after the last NUL is lines."""
    for chunk in itertools.chain([b""], chunks):
        *names, rest = (rest + chunk).split(b"\0")
        yield from names
    yield from _split_lines(rest, ())


def _split_lines(rest: bytes, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Split a list of names that are ended by line breaks, or by NULs where some come later."""
    for chunk in itertools.chain([b""], chunks):
        *names, rest = re.split(rb"\r*\n|\0", rest + chunk)
        yield from names
    yield rest.rstrip(b"\r")


def _expand_path(name: str, missing: MissingPhotos) -> Iterator[Photo]:
    if is_url(name) or not os.path.isdir(name):  # noqa: PTH112 - a name may be no path at all (a NUL in it)
        yield Photo(name, None if is_url(name) else missing.error(name))
        return
    found = False
    kinds: dict[Kind, list[str]] = {}

    def note(entry: os.DirEntry[str]) -> None:
        if kind := skipped_kind(entry):
            kinds.setdefault(kind, []).append(str(Path(entry.path)))

    for path, error in walk_photos(name, note):
        found = True
        yield Photo(path, error)
    others = describe_skipped(kinds)
    if not found:
        endings = ", ".join(sorted(SUFFIXES))
        more = f". {' '.join(others)}".rstrip(".") if others else ""
        yield Photo(name, f"{name}: there is no photo in this folder (looked for {endings}){more}")
    else:
        for other in others:
            warn(other)


def _expand_pattern(pattern: str, missing: MissingPhotos) -> Iterator[Photo]:
    written = Path(pattern).parts
    found = {
        path: error
        for path, error in _glob(pattern)
        if not any(is_system_folder(part) and part not in written for part in Path(path).parts[:-1])
    }
    if not found:
        yield Photo(pattern, missing.no_match(pattern))
    for path in sorted(found):
        if error := found[path]:
            yield Photo(path, error)
        # `**` matches folders and files; the files of a folder are matched themselves.
        elif "**" not in pattern or not os.path.isdir(path):  # noqa: PTH112
            yield from _expand_path(path, missing)


def _glob(pattern: str) -> Iterator[tuple[str, str | None]]:
    """Yield the matches of a pattern, or a folder below `**` with the reason why it cannot be listed.

    `glob` alone would follow circular links in `**` until the path is too long.
    """
    before, stars, after = _split_at_double_star(pattern)
    if not stars:
        yield from ((path, None) for path in glob.iglob(pattern))  # noqa: PTH207 - a pattern may be absolute
        return
    for top in glob.iglob(before) if before else [""]:  # noqa: PTH207
        if not os.path.isdir(top or os.curdir):  # noqa: PTH112
            continue
        for folder, error in _walk_folders(top, FolderPath(os.path.realpath(top or os.curdir))):
            if error is None:
                yield from _glob(os.path.join(glob.escape(folder), after or "*"))  # noqa: PTH118
            else:
                yield folder, error


def _split_at_double_star(pattern: str) -> tuple[str, str, str]:
    """Split a pattern at its first `**` component: before, `**`, after."""
    parts = re.split(r"(?:^|(?<=/))(\*\*)(?:/+|$)", pattern.replace(os.sep, "/"), maxsplit=1)
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else (pattern, "", "")


def _walk_folders(folder: str, folder_path: FolderPath) -> Iterator[tuple[str, str | None]]:
    """Yield a folder and its visible subfolders recursively, or the reason why one cannot be listed."""
    inside, below, error = list_or_reason(folder, folder_path)
    if inside is not None or error:
        yield folder, error
    for entry in inside or ():
        if is_folder(entry) and not entry.name.startswith("."):
            yield from _walk_folders(os.path.join(folder, entry.name), below)  # noqa: PTH118
