"""The model and options that the rows of a results file were made with, and when; a resumed run must match them."""

from __future__ import annotations

import bisect
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vertebra.errors import UsageError


@dataclass
class RunRecord:
    """The model and options that the rows of a file were made with, and when."""

    model: str  # as the user named it
    sha256: str  # of its file
    options: dict[str, int | bool]  # those that affect a row
    folder: str  # that paths are relative to
    engine: str = ""  # of --engine, which decides the last digits; "": an older version did not keep it
    runs: list[tuple[int, float]] = field(default_factory=list)  # number of the first row, seconds since 1970
    again: list[tuple[int, float]] = field(default_factory=list)  # rows that were replaced, and when

    def to_json(self) -> bytes:
        """Serialise the record."""
        return json.dumps({"format": 1} | asdict(self)).encode("ascii")

    @staticmethod
    def from_json(content: bytes) -> RunRecord | None:
        """Parse a record; None if it is none."""
        try:
            found = json.loads(content)
            runs, again = ([(int(row), float(at)) for row, at in found[name]] for name in ("runs", "again"))
            engine = str(found.get("engine", ""))
            options = dict(found["options"])
            return RunRecord(found["model"], found["sha256"], options, found["folder"], engine, runs, again)
        except (ValueError, KeyError, TypeError):
            return None

    def difference(self, other: RunRecord) -> str | None:
        """Describe how another run differs: `"by …, and this run …"`; None if it matches."""
        if self.sha256 != other.sha256:
            ours, theirs = (f"{record.model} (SHA-256 {record.sha256[:12]}…)" for record in (self, other))
            return f"by the model {ours}, and this run's is {theirs}"
        for name in (*self.options, *other.options):
            ours, theirs = (_describe_option(name, record.options.get(name, False)) for record in (self, other))
            if ours != theirs:
                return f"{ours}, and this run is {theirs}"
        return None

    def written_at(self, row: int) -> float:
        """Return the start time of the run that wrote a row."""
        at = bisect.bisect_left(self.again, row, key=lambda entry: entry[0])
        if at < len(self.again) and self.again[at][0] == row:
            return self.again[at][1]
        return self.runs[max(0, bisect.bisect_right(self.runs, row, key=lambda entry: entry[0]) - 1)][1]


def is_record(content: bytes) -> bool:
    """Whether a file by `RunRecord.to_json` may hold this; one that is empty has nothing to lose."""
    return not content or RunRecord.from_json(content) is not None


def _describe_option(name: str, value: int | bool) -> str:
    return f"with{'' if value else 'out'} {name}" if isinstance(value, bool) else f"with {name} {value}"


def require_same_run(found: RunRecord | None, wanted: RunRecord, path: Path, place: str) -> RunRecord:
    """Return the record found in a file; a `UsageError` if it is None or differs from `wanted`."""
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


def describe_engine_change(place: object, begun: str, now: str) -> str | None:
    """The note on a run that is resumed with another `--engine`; None if it is the same, or was not kept."""
    if begun in ("", now):
        return None
    return (
        f"{place} was begun with --engine {begun}, and goes on with --engine {now}: probabilities of two engines "
        "differ in the sixth digit."
    )


def current_folder() -> str:
    """Return the current folder, "" if it was deleted."""
    try:
        return os.getcwd()  # noqa: PTH109 - the text alone
    except OSError:
        return ""
