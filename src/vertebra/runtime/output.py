"""Results into a file: .csv, .jsonl or .parquet; a run that was interrupted goes on where it stopped.

CSV and JSON lines are written as results come, whole lines only in the end: what a killed process left of its last
line is cut off before the next run goes on. A Parquet file is complete or not there; until then the results lie
beside it in `NAME.parquet.partial`, as JSON lines.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from vertebra.errors import MissingExtraError, UsageError, VertebraError
from vertebra.files import replacing

from .predictor import Prediction
from .sources import Photo

SUFFIXES = (".csv", ".jsonl", ".parquet")


class OutputError(VertebraError):
    """Results cannot be written; what was written before is whole and can be gone on from."""


class Output:
    """A file that results are written to, used as `with Output(path, …) as output:`.

    Args:
        path: its suffix says the format.
        top: how many classes a photo gets, which is how many columns a table has for them.
        embed: whether there is a column for embeddings.
        unsure: whether there is a column for "none of the classes".
        resume: keep what an earlier run has written, and leave those photos out.

    Raises:
        UsageError: the suffix is not known, or what is there was written with other settings.
        MissingExtraError: a package for the format is not installed.
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, *, top: int, embed: bool, unsure: bool = False, resume: bool = False) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"the results' file is {str(path)!r}; its name must end in {' or '.join(SUFFIXES)}.")
        self.path = path
        self._parquet = path.suffix.lower() == ".parquet"
        if self._parquet:
            _pyarrow()
        table = path.suffix.lower() == ".csv"
        self._format: _Csv | _Lines = _Csv(top, embed, unsure) if table else _Lines(top, embed, unsure)
        # Results are appended to this file.
        self._journal = path.with_name(f"{path.name}.partial") if self._parquet else path
        self._done: Counter[str] = Counter()
        self._file: IO[bytes] = self._opened(resume)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise self._not_written(error) from error
        if kind is None and self._parquet:
            self._finish_parquet()

    @property
    def done(self) -> int:
        """How many photos earlier runs have written."""
        return self._done.total()

    def remaining(self, photos: Iterable[Photo]) -> Iterator[Photo]:
        """The photos that earlier runs have not written; one that is given twice is written twice."""
        left = self._done.copy()
        for photo in photos:
            if left[photo.path] > 0:
                left[photo.path] -= 1
            else:
                yield photo

    def write(self, result: Prediction) -> None:
        """Append a result.

        Raises:
            OutputError: the disk is full, or the file cannot be written any more. It ends in a whole line.
        """
        start = self._file.tell()
        try:
            self._file.write(self._format.line(result))
            # To the system, so that a killed process loses nothing; Python would keep it to itself for a while.
            self._file.flush()
        except OSError as error:
            self._cut(start)
            raise self._not_written(error) from error

    # --- opening --------------------------------------------------------------------------------------------------

    def _opened(self, resume: bool) -> IO[bytes]:
        head = self._format.head()
        try:
            if resume:
                self._recover(head)
            else:
                # Opened before the old content goes, so that a file that cannot be written is not emptied.
                with self._journal.open("ab"):
                    pass
                self._journal.write_bytes(b"")
            file = self._journal.open("ab", buffering=0)
            if not file.tell():
                try:
                    file.write(head)
                except OSError:
                    file.close()
                    self._journal.unlink(missing_ok=True)
                    raise
            return file
        except OSError as error:
            raise self._not_written(error) from error

    def _recover(self, head: bytes) -> None:
        """Read what earlier runs have written, and cut off the line that the last one was killed at."""
        if self._parquet and not self._journal.exists() and self.path.exists():
            # A finished run: its rows are the beginning of this one.
            with replacing(self._journal) as temporary:
                temporary.write_bytes(b"".join(_as_line(row) for row in _parquet_rows(self.path)))
        if not self._journal.exists():
            return
        whole = 0
        with self._journal.open("rb") as file:
            found = file.read(len(head))
            if head and found != head:
                if len(found) < len(head) and head.startswith(found):
                    found = b""  # killed within the first line
                else:
                    raise UsageError(
                        f"{self.path} has other columns than this run, so it cannot be gone on with. "
                        "Use the --top, --embed and --model that it was written with, or give another file."
                    )
            whole = len(found)
            for record in self._format.records(file):
                key = self._format.key_of(record)
                if key is None:
                    raise UsageError(
                        f"{self.path} holds a line that this command has not written ({record[:60]!r}), so it cannot "
                        "be gone on with. Give another file."
                    )
                self._done[key] += 1
                whole += len(record)
        os.truncate(self._journal, whole)

    # --- closing --------------------------------------------------------------------------------------------------

    def _finish_parquet(self) -> None:
        try:
            with replacing(self.path) as temporary, self._journal.open("rb") as lines:
                _write_parquet(temporary, lines, self._format)
            self._journal.unlink()
        except OSError as error:
            raise self._not_written(error) from error

    def _cut(self, size: int) -> None:
        """Take back what was written of a line."""
        try:
            os.ftruncate(self._file.fileno(), size)
        except OSError:
            return
        if not size or size == len(self._format.head()):
            self._file.close()
            self._journal.unlink(missing_ok=True)

    def _not_written(self, error: OSError) -> OutputError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OutputError(
                f"the disk is full: {self.path} holds the results up to here. "
                "Make room and run the same command again with --resume."
            )
        if isinstance(error, FileNotFoundError):
            return OutputError(f"there is no folder {str(self.path.parent)!r} to write {self.path.name} in. Make it.")
        return OutputError(
            f"{self.path} cannot be written ({(error.strerror or str(error)).lower()}). Give another place with --out."
        )


# --- formats --------------------------------------------------------------------------------------------------------


class _Lines:
    """JSON lines: the object that `--json` prints, one a line, in ASCII."""

    def __init__(self, top: int, embed: bool, unsure: bool) -> None:
        self.top, self.embed, self.unsure = top, embed, unsure

    def head(self) -> bytes:
        return b""

    def line(self, result: Prediction) -> bytes:
        return _as_line(result.as_dict())

    def records(self, file: IO[bytes]) -> Iterator[bytes]:
        """The whole lines of an open file."""
        for line in file:
            if line.endswith(b"\n"):
                yield line

    def key_of(self, record: bytes) -> str | None:
        """The path that a line is about; None where it is no line of ours."""
        try:
            row = json.loads(record)
            fits = isinstance(row["path"], str) and len(row["predictions"]) <= self.top
            fits = fits and (row["error"] is not None or ("embedding" in row) == self.embed)
        except (ValueError, KeyError, TypeError):
            return None
        return row["path"] if fits else None


class _Csv:
    """A table: path, class and probability by rank, error; quoted as RFC 4180 has it."""

    def __init__(self, top: int, embed: bool, unsure: bool) -> None:
        self.top, self.embed, self.unsure = top, embed, unsure
        self.columns = ["path"]
        for rank in range(1, top + 1):
            self.columns += [f"class_{rank}", f"probability_{rank}"]
        self.columns += ["unsure"] * unsure + ["error"] + ["embedding"] * embed

    def head(self) -> bytes:
        return self._row(self.columns)

    def line(self, result: Prediction) -> bytes:
        cells: list[object] = [result.path]
        for entry in result.predictions:
            cells += [entry["class"], f"{entry['probability']:.6g}"]
        cells += [""] * (1 + 2 * self.top - len(cells))
        if self.unsure:
            cells.append("" if result.unsure is None else str(result.unsure).lower())
        cells.append(result.error or "")
        if self.embed:
            vector = result.embedding
            cells.append("" if vector is None else json.dumps([round(float(value), 6) for value in vector]))
        return self._row(cells)

    def records(self, file: IO[bytes]) -> Iterator[bytes]:
        """The whole rows of an open file: a line break between quotes does not end one."""
        record = b""
        for line in file:
            record += line
            if line.endswith(b"\n") and record.count(b'"') % 2 == 0:
                yield record
                record = b""

    def key_of(self, record: bytes) -> str | None:
        """The path that a row is about; None where it is no row of ours."""
        rows = list(csv.reader(io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")))
        return rows[0][0] if len(rows) == 1 and len(rows[0]) == len(self.columns) else None

    def _row(self, cells: Iterable[object]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        # A file's name can be any bytes; they come back as they were.
        return text.getvalue().encode("utf-8", "surrogateescape")


def _as_line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode("ascii")


# --- Parquet --------------------------------------------------------------------------------------------------------


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("writing .parquet files", "parquet") from error
    return pyarrow


def _schema(pyarrow: Any, format: _Csv | _Lines) -> Any:
    fields = [("path", pyarrow.string())]
    for rank in range(1, format.top + 1):
        fields += [
            (f"class_{rank}", pyarrow.string()),
            (f"index_{rank}", pyarrow.int32()),
            (f"probability_{rank}", pyarrow.float32()),
        ]
    fields += [("unsure", pyarrow.bool_())] if format.unsure else []
    fields += [("error", pyarrow.string())]
    fields += [("embedding", pyarrow.list_(pyarrow.float32()))] if format.embed else []
    return pyarrow.schema(fields)


def _write_parquet(path: Path, lines: IO[bytes], format: _Csv | _Lines) -> None:
    """JSON lines → a Parquet file, a few thousand rows in memory at a time."""
    pyarrow = _pyarrow()
    schema = _schema(pyarrow, format)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for line in lines:
            rows.append(_flat(json.loads(line)))
            if len(rows) == 4096:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
                rows = []
        writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {name: row.get(name) for name in ("unsure", "error", "embedding")}
    # Parquet's texts are Unicode, and a file's name can be any bytes: those that are none are written as \xNN.
    flat["path"] = os.fsencode(row["path"]).decode("utf-8", "backslashreplace")
    if flat["error"] is not None:
        flat["error"] = flat["error"].encode("utf-8", "backslashreplace").decode("utf-8")
    for rank, entry in enumerate(row["predictions"], 1):
        flat |= {f"class_{rank}": entry["class"], f"index_{rank}": entry["index"]}
        flat[f"probability_{rank}"] = entry["probability"]
    return flat


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that `_write_parquet` wrote, as they were before."""
    pyarrow = _pyarrow()
    try:
        found = pyarrow.parquet.ParquetFile(path)
        for batch in found.iter_batches():
            for row in batch.to_pylist():
                ranks = range(1, sum(name.startswith("class_") for name in row) + 1)
                restored = {
                    "path": row["path"],
                    "predictions": [
                        {"class": row[f"class_{r}"], "index": row[f"index_{r}"], "probability": row[f"probability_{r}"]}
                        for r in ranks
                        if row[f"class_{r}"] is not None
                    ],
                    "error": row["error"],
                }
                yield restored | {name: row[name] for name in ("unsure", "embedding") if row.get(name) is not None}
    except (pyarrow.ArrowException, KeyError) as error:
        raise UsageError(f"{path} is not a file that this command has written. Give another file.") from error
