"""What the rows of a file of results were made with, and when: a run with anything else does not add to them."""

from __future__ import annotations

import bisect
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vertebra.errors import UsageError


@dataclass
class RunRecord:
    """What the rows of a file were made with, and when."""

    model: str  # as people know it
    sha256: str  # of its file
    options: dict[str, int | bool]  # those that decide a row
    folder: str  # that paths are relative to
    runs: list[tuple[int, float]] = field(default_factory=list)  # number of the first row, seconds since 1970
    again: list[tuple[int, float]] = field(default_factory=list)  # rows that were replaced, and when

    def to_json(self) -> bytes:
        """As it is stored."""
        return json.dumps({"format": 1} | asdict(self)).encode("ascii")

    @staticmethod
    def from_json(content: bytes) -> RunRecord | None:
        """None where that is no record."""
        try:
            found = json.loads(content)
            runs, again = ([(int(row), float(at)) for row, at in found[name]] for name in ("runs", "again"))
            return RunRecord(found["model"], found["sha256"], dict(found["options"]), found["folder"], runs, again)
        except (ValueError, KeyError, TypeError):
            return None

    def difference(self, other: RunRecord) -> str | None:
        """In what another run differs: `"by …, and this run …"`; None where its rows are of one kind with these."""
        if self.sha256 != other.sha256:
            ours, theirs = (f"{record.model} (SHA-256 {record.sha256[:12]}…)" for record in (self, other))
            return f"by the model {ours}, and this run's is {theirs}"
        for name in (*self.options, *other.options):
            ours, theirs = (_describe_option(name, record.options.get(name, False)) for record in (self, other))
            if ours != theirs:
                return f"{ours}, and this run is {theirs}"
        return None

    def written_at(self, row: int) -> float:
        """When the run began that wrote a row."""
        at = bisect.bisect_left(self.again, row, key=lambda entry: entry[0])
        if at < len(self.again) and self.again[at][0] == row:
            return self.again[at][1]
        return self.runs[max(0, bisect.bisect_right(self.runs, row, key=lambda entry: entry[0]) - 1)][1]


def _describe_option(name: str, value: int | bool) -> str:
    return f"with{'' if value else 'out'} {name}" if isinstance(value, bool) else f"with {name} {value}"


def require_same_run(found: RunRecord | None, wanted: RunRecord, path: Path, place: str) -> RunRecord:
    """The record of the rows in a file; a `UsageError` where those of this run are made otherwise, or it is None."""
    if found is None:
        raise UsageError(
            f"{path} cannot be resumed: there is no {place} to say by which model its rows were made (older versions "
            "did not keep that). Give another --out file, or leave --resume out to replace it."
        )
    if difference := found.difference(wanted):
        raise UsageError(
            f"{path} was made {difference}, so it cannot be resumed. Use what it was made with, or give another --out "
            "file."
        )
    return found


def current_folder() -> str:
    """The folder of this process, "" where it is gone."""
    try:
        return os.getcwd()  # noqa: PTH109 - the text alone
    except OSError:
        return ""
