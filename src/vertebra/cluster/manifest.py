"""The manifest of a run: which parts are whole, kept by the process that drives it.

A part counts as done when its record is here and its file is there as it was written: with the size and the time of
its last change that were recorded, or, where another time is all that differs, with the same SHA-256. A part without a
record is made again under the same name, so that nothing is lost and nothing doubled whatever is killed when.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, astuple, dataclass

from vertebra.storage import Location, StorageError
from vertebra.strict_json import dumps

SECONDS = 3.0  # between two writes
RECORDS = 1_000  # of one file; a file of the manifest is written anew with each addition
_FILE = re.compile(r"done-(\d{4,})\.jsonl")


@dataclass(frozen=True)
class PartRecord:
    """A part that is whole."""

    part: str  # its name
    rows: int
    errors: int
    bytes: int  # its size
    mtime_ns: int  # when it was written, by the clock of the file system
    sha256: str


class Manifest:
    """The records in the files `done-0000.jsonl`, `done-0001.jsonl`, … of a folder."""

    def __init__(self, folder: Location) -> None:
        self.records: dict[str, PartRecord] = {}
        self.rows = self.errors = 0  # in all parts; kept, as they are asked for at each of them
        self.damaged = 0  # lines that could not be read
        self._folder = folder
        self._number = 0  # of the file that is added to
        self._lines: list[str] = []  # in that file
        self._unwritten = 0
        self._written_at = time.monotonic()

    def load(self) -> None:
        """Read what earlier runs have recorded; a part that was made again has its last record.

        A file that is lost or damaged costs the records in it alone.
        """
        for number in sorted(int(found[1]) for found in map(_FILE.fullmatch, self._names()) if found):
            self._number = number
            for line in self._file().read_bytes().splitlines():
                if (record := _record(line)) is not None:
                    self._keep(record)
                else:
                    self.damaged += 1
            self._number += 1

    def _names(self) -> list[str]:
        try:
            return [entry.location.name for entry in self._folder.list()]
        except StorageError as error:
            if error.is_missing:
                return []
            raise

    def add(self, record: PartRecord) -> None:
        """Record a part; it is written some seconds later, or by `flush`."""
        self._keep(record)
        self._lines.append(dumps(asdict(record)))
        self._unwritten += 1
        if time.monotonic() - self._written_at > SECONDS or len(self._lines) >= RECORDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        if self._unwritten:
            self._file().write(("\n".join(self._lines) + "\n").encode("ascii"))
            self._unwritten = 0
        self._written_at = time.monotonic()
        if len(self._lines) >= RECORDS:
            self._number += 1
            self._lines = []

    def _file(self) -> Location:
        return self._folder / f"done-{self._number:04}.jsonl"

    def discard(self, part: str) -> None:
        """Forget the record of a part that is made again, if there is one."""
        if (record := self.records.pop(part, None)) is not None:
            self.rows -= record.rows
            self.errors -= record.errors

    def _keep(self, record: PartRecord) -> None:
        self.discard(record.part)
        self.records[record.part] = record
        self.rows += record.rows
        self.errors += record.errors


_TYPES = [str, int, int, int, int, str]  # of a record's fields


def _record(line: bytes) -> PartRecord | None:
    """Parse a line; None if it is damaged, so that its part is made again."""
    try:
        record = PartRecord(**json.loads(line))
    except (ValueError, TypeError):
        return None
    return record if [type(value) for value in astuple(record)] == _TYPES else None
