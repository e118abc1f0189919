"""Resuming a results file: read the rows of earlier runs, and replace rows in place."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from vertebra.errors import UsageError
from vertebra.files import atomic_write
from vertebra.photo_download import is_url

from .formats import Csv, JsonLines, text_of_path


@dataclass
class ExistingRows:
    """Rows that a results file already has."""

    numbers: dict[str, list[int]] = field(default_factory=dict)  # text of a path -> its rows; a failed row n is ~n
    count: int = 0
    failed: int = 0
    size: int = 0  # bytes of all that is whole
    relative: bool = False  # whether some path is relative to a folder


def scan_rows(path: Path, journal: Path, format: Csv | JsonLines) -> ExistingRows:
    """Read the complete rows of a journal.

    Raises:
        UsageError: its columns differ, or a line was not written by this command; the message names `path`.
    """
    found = ExistingRows()
    head = format.head
    with journal.open("rb") as file:
        start = file.read(len(head))
        if len(start) < len(head):
            return found  # killed within the first line
        if start != head:
            raise UsageError(
                f"{path} has other columns than this run, so it cannot be resumed. "
                "Use the --top, --embed and --model that it was written with, or give another file."
            )
        found.size = len(head)
        for record in format.records(file):
            row = format.read(record)
            if row is None:
                raise UsageError(
                    f"{path} holds a line that this command has not written ({record[:60]!r}), so it cannot be "
                    "resumed. Give another file."
                )
            photo, failed = row
            found.numbers.setdefault(text_of_path(photo), []).append(~found.count if failed else found.count)
            found.count += 1
            found.failed += failed
            found.size += len(record)
            found.relative |= not (is_url(photo) or os.path.isabs(photo))  # noqa: PTH117
    return found


def replacement_line(row: int, started: float, line: bytes) -> bytes:
    """Encode a line of the replacements file: row number, time, new row."""
    return (json.dumps([row, started, line.decode("utf-8", "surrogateescape")]) + "\n").encode("ascii")


def is_replacement_line(line: bytes) -> bool:
    """Whether a replacements file may begin with this line; killed runs leave half a line."""
    try:
        entry = json.loads(line)
    except ValueError:
        return not line.endswith(b"\n") and re.match(rb"$|\[($|\d)", line) is not None
    return isinstance(entry, list) and list(map(type, entry)) == [int, float, str]


def replace_rows(journal: Path, replacements: Path, format: Csv | JsonLines) -> dict[int, float]:
    """Replace rows of a journal in place; return row number → time. Idempotent."""
    places: dict[int, tuple[int, int]] = {}  # row -> where its new line begins and ends
    made: dict[int, float] = {}
    with replacements.open("rb") as news:
        begin = 0
        for line in news:
            if line.endswith(b"\n"):
                row, started, _ = json.loads(line)
                places[row], made[row] = (begin, begin + len(line)), started
            begin += len(line)
        head = format.head
        with atomic_write(journal) as temporary, temporary.open("wb") as new, journal.open("rb") as old:
            new.write(old.read(len(head)))
            for number, record in enumerate(format.records(old)):
                if number in places:
                    begin, end = places[number]
                    news.seek(begin)
                    new.write(json.loads(news.read(end - begin))[2].encode("utf-8", "surrogateescape"))
                else:
                    new.write(record)
    return made


class PhotoTimes:
    """When photo files last changed, or the links that lead to them. What folders are reached by is read once."""

    def __init__(self) -> None:
        self._folders: dict[str, float] = {}

    def has_changed_since(self, path: str, when: float) -> bool:
        """Whether a photo file has changed since `when`, or a link that leads to it."""
        if is_url(path):
            return False
        try:
            return _changed_at(os.stat(path)) > when or self._newest_link(path) > when  # noqa: PTH116 - may be no path
        except (OSError, ValueError):
            return False

    def _newest_link(self, path: str) -> float:
        """The last change of the links in a path, and in their targets."""
        folder = os.path.dirname(path)  # noqa: PTH120 - of a link itself, even where `..` follows
        newest = 0.0
        if folder not in ("", path):
            if folder not in self._folders:
                self._folders[folder] = self._newest_link(folder)
            newest = self._folders[folder]
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            target = os.path.join(folder, os.readlink(path))  # noqa: PTH115, PTH118
            newest = max(newest, _changed_at(status), self._newest_link(target))
        return newest


def _changed_at(status: os.stat_result) -> float:
    # The status time, too: a file that is moved here keeps its modification time.
    return max(status.st_mtime, status.st_ctime)
