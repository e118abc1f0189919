"""One chunk's results as one file, with the columns and the escaping of a results file that one machine writes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vertebra.runtime.formats import Csv, JsonLines, to_row
from vertebra.runtime.parquet_format import write_parquet
from vertebra.runtime.prediction import Prediction
from vertebra.storage.errors import storage_errors

SUFFIXES = (".csv", ".jsonl", ".parquet")


def part_name(number: int, suffix: str) -> str:
    """The name of a chunk's part, the same at each attempt: `part-000007.parquet`."""
    return f"part-{number:06}{suffix}"


@dataclass(frozen=True)
class Part:
    """What is in a part that is written whole."""

    bytes: int
    rows: int
    errors: int  # rows with an error
    sha256: str


@dataclass(frozen=True)
class PartFormat:
    """What the parts of a run look like."""

    suffix: str
    top: int
    embed: bool
    unsure: bool

    def write(self, path: Path, results: Iterable[Prediction]) -> Part:
        """Write results into a file of this process, from which the part is written: a shard's may be large.

        Raises:
            StorageError: the disk is full.
        """
        format = (Csv if self.suffix == ".csv" else JsonLines)(self.top, self.embed, self.unsure)
        rows = errors = 0

        def counted() -> Iterable[Prediction]:
            nonlocal rows, errors
            for result in results:
                rows += 1
                errors += result.error is not None
                yield result

        with storage_errors(str(path), "written"), path.open("wb") as file:
            if self.suffix == ".parquet":
                write_parquet(file, map(to_row, counted()), format)
            else:
                file.write(format.head)
                file.writelines(map(format.line, counted()))
        with storage_errors(str(path), "read"), path.open("rb") as written:  # a moment later, from memory
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        return Part(path.stat().st_size, rows, errors, digest)
