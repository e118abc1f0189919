"""How a file of results holds them: rows of CSV or JSON lines, written one by one, and Parquet made of the latter."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from vertebra.errors import MissingExtraError, UsageError

from .predictor import Prediction

# Under this key a Parquet file says what its rows were made with.
RECORD_KEY = b"vertebra.predict"


class JsonLines:
    """JSON lines: the object that `--json` prints, one a line, in ASCII."""

    def __init__(self, top: int, embed: bool, unsure: bool) -> None:
        self.top, self.embed, self.unsure = top, embed, unsure

    def head(self) -> bytes:
        """What comes before the first row: nothing."""
        return b""

    def line(self, result: Prediction) -> bytes:
        """A result's row."""
        return _as_line(result.as_dict())

    def records(self, file: IO[bytes]) -> Iterator[bytes]:
        """The whole lines of an open file."""
        for line in file:
            if line.endswith(b"\n"):
                yield line

    def read(self, record: bytes) -> tuple[str, bool] | None:
        """The path that a line is about, and whether it failed; None where it is no line of ours."""
        try:
            row = json.loads(record)
            fits = isinstance(row["path"], str) and len(row["predictions"]) <= self.top
            fits = fits and (row["error"] is not None or ("embedding" in row) == self.embed)
        except (ValueError, KeyError, TypeError):
            return None
        return (row["path"], row["error"] is not None) if fits else None

    @staticmethod
    def is_ours(start: bytes) -> bool:
        """Whether a file that starts like that can have been written here."""
        expected = b'{"path": "'
        return start[: len(expected)] == expected[: len(start)]


class Csv:
    """A table: path, class and probability by rank, error; quoted as RFC 4180 has it."""

    def __init__(self, top: int, embed: bool, unsure: bool) -> None:
        self.top, self.embed, self.unsure = top, embed, unsure
        self.columns = ["path"]
        for rank in range(1, top + 1):
            self.columns += [f"class_{rank}", f"probability_{rank}"]
        self.columns += ["unsure"] * unsure + ["error"] + ["embedding"] * embed

    def head(self) -> bytes:
        """The line of column names."""
        return self._row(self.columns)

    def line(self, result: Prediction) -> bytes:
        """A result's row."""
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

    def read(self, record: bytes) -> tuple[str, bool] | None:
        """The path that a row is about, and whether it failed; None where it is no row of ours."""
        rows = list(csv.reader(io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")))
        if len(rows) != 1 or len(rows[0]) != len(self.columns):
            return None
        return rows[0][0], rows[0][self.columns.index("error")] != ""

    @staticmethod
    def is_ours(start: bytes) -> bool:
        """Whether a file that starts like that can have been written here."""
        expected = b"path,class_1,probability_1,"
        return start[: len(expected)] == expected[: len(start)]

    def _row(self, cells: Iterable[object]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        # A file's name can be any bytes; they come back as they were.
        return text.getvalue().encode("utf-8", "surrogateescape")


def _as_line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, allow_nan=False) + "\n").encode("ascii")


# --- Parquet --------------------------------------------------------------------------------------------------------


def need_pyarrow() -> Any:
    """The package for Parquet files.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("writing .parquet files", "parquet") from error
    return pyarrow


def _schema(pyarrow: Any, format: Csv | JsonLines, record: bytes) -> Any:
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
    return pyarrow.schema(fields, metadata={RECORD_KEY: record})


def write_parquet(path: Path, lines: IO[bytes], format: Csv | JsonLines, record: bytes) -> None:
    """JSON lines → a Parquet file with that record in its metadata, a few thousand rows in memory at a time."""
    pyarrow = need_pyarrow()
    schema = _schema(pyarrow, format, record)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        rows: list[dict[str, Any]] = []
        for line in lines:
            rows.append(_flat(json.loads(line)))
            if len(rows) == 4096:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
                rows = []
        writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def unicode_path(path: str) -> str:
    r"""A photo's path as a Parquet file has it: its texts are Unicode, and bytes that are none are written as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {name: row.get(name) for name in ("unsure", "error", "embedding")}
    flat["path"] = unicode_path(row["path"])
    if flat["error"] is not None:
        flat["error"] = flat["error"].encode("utf-8", "backslashreplace").decode("utf-8")
    for rank, entry in enumerate(row["predictions"], 1):
        flat |= {f"class_{rank}": entry["class"], f"index_{rank}": entry["index"]}
        flat[f"probability_{rank}"] = entry["probability"]
    return flat


def parquet_record(path: Path) -> tuple[int, bytes]:
    """How many rows a file that `write_parquet` wrote has, and its record; b"" where it has none.

    Raises:
        UsageError: it is another file.
    """
    pyarrow = need_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as found:
            names, metadata = found.schema_arrow.names, found.schema_arrow.metadata or {}
            if not {"path", "class_1", "error"} <= set(names):
                raise _foreign(path)
            return found.metadata.num_rows, metadata.get(RECORD_KEY, b"")
    except pyarrow.ArrowException as error:
        raise _foreign(path) from error


def parquet_lines(path: Path) -> Iterator[bytes]:
    """The rows of a file that `write_parquet` wrote, as the lines that it was made of."""
    pyarrow = need_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as found:
            for batch in found.iter_batches():
                for row in batch.to_pylist():
                    yield _as_line(_nested(row))
    except (pyarrow.ArrowException, KeyError) as error:
        raise _foreign(path) from error


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    ranks = range(1, sum(name.startswith("class_") for name in row) + 1)
    predictions = [
        {"class": row[f"class_{r}"], "index": row[f"index_{r}"], "probability": row[f"probability_{r}"]}
        for r in ranks
        if row[f"class_{r}"] is not None
    ]
    restored = {"path": row["path"], "predictions": predictions, "error": row["error"]}
    return restored | {name: row[name] for name in ("unsure", "embedding") if row.get(name) is not None}


def _foreign(path: Path) -> UsageError:
    return UsageError(f"{path} is not a file that this command has written. Give another file.")
