r"""How a file of results holds them: rows of CSV or JSON lines, written one by one, and Parquet made of the latter.

All three are text in Unicode, and the name of a file is any bytes: `text_of_path` writes it so that every reader of
the format takes it and `path_of_text` has the bytes back. A table is also read by spreadsheets, which take a cell that
begins with `=`, `+`, `-`, `@`, a tab or a line break for a formula, also in full width
(https://owasp.org/www-community/attacks/CSV_Injection): a path begins with `./` then, which is the same file, and any
other cell that is no number with `'`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from vertebra.errors import UsageError, needing
from vertebra.strict_json import dumps

from .predictor import Prediction

# Under this key a Parquet file says what its rows were made with.
RECORD_KEY = b"vertebra.predict"


def text_of_path(path: str) -> str:
    r"""A path as text in Unicode: bytes that are no UTF-8, and NUL, are written `\xNN`.

    A backslash that would read like one of these is written `\x5c`, so that no two paths have the same text.
    """
    if path.isascii() and "\\" not in path and "\0" not in path:
        return path
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:  # no name that this system gave
        name = path.encode("utf-8", "surrogatepass")
    plain = re.sub(rb"\\(?=x(?:00|5c|[89a-f][0-9a-f]))", rb"\\x5c", name).replace(b"\0", rb"\x00")
    return plain.decode("utf-8", "backslashreplace")


def path_of_text(text: str) -> str:
    """The path that `text_of_path` made the text of, or an earlier version, which left bytes that are no UTF-8."""
    try:
        name = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text
    return os.fsdecode(re.sub(rb"\\x(00|5c|[89a-f][0-9a-f])", lambda found: bytes([int(found[1], 16)]), name))


def row_of(result: Prediction) -> dict[str, Any]:
    """A result for JSON, all texts in it Unicode."""
    row = result.as_dict() | {"path": text_of_path(result.path)}
    row["predictions"] = [entry | {"class": _text(entry["class"])} for entry in row["predictions"]]
    return row | {"error": None if result.error is None else _text(result.error)}


def _text(text: str) -> str:
    r"""As Unicode: bytes that are none (as of a file's name in an error) are written `\xNN`."""
    if text.isascii():
        return text
    escaped = re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


class JsonLines:
    """JSON lines: the object that `--json` prints, one a line, in ASCII."""

    def __init__(self, top: int, embed: bool, unsure: bool) -> None:
        self.top, self.embed, self.unsure = top, embed, unsure

    def head(self) -> bytes:
        """What comes before the first row: nothing."""
        return b""

    def line(self, result: Prediction) -> bytes:
        """A result's row."""
        return _as_line(row_of(result))

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
        return (path_of_text(row["path"]), row["error"] is not None) if fits else None

    @staticmethod
    def is_ours(start: bytes) -> bool:
        """Whether a file that starts like that can have been written here."""
        expected = b'{"path": "'
        return start[: len(expected)] == expected[: len(start)]


class Csv:
    """A table: path, class and probability by rank, error; quoted as RFC 4180 has it, lines ended as Unix does."""

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
        row = row_of(result)
        cells: list[str] = [row["path"] if not _is_formula(row["path"]) else f"./{row['path']}"]
        for entry in row["predictions"]:
            cells += [_as_cell(entry["class"]), f"{entry['probability']:.6g}"]
        cells += [""] * (1 + 2 * self.top - len(cells))
        if self.unsure:
            cells.append("" if result.unsure is None else str(result.unsure).lower())
        cells.append(_as_cell(row["error"] or ""))
        if self.embed:
            vector = result.embedding
            cells.append("" if vector is None else dumps([round(float(value), 6) for value in vector]))
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
        try:
            rows = list(csv.reader(io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")))
        except csv.Error:
            return None
        if len(rows) != 1 or len(rows[0]) != len(self.columns):
            return None
        path = rows[0][0]
        path = path[2:] if path.startswith("./") and _is_formula(path[2:]) else path
        return path_of_text(path), rows[0][self.columns.index("error")] != ""

    @staticmethod
    def is_ours(start: bytes) -> bool:
        """Whether a file that starts like that can have been written here."""
        expected = b"path,class_1,probability_1,"
        return start[: len(expected)] == expected[: len(start)]

    def _row(self, cells: Iterable[str]) -> bytes:
        text = io.StringIO()
        # What is in the line's end is quoted in cells: both characters, as readers end lines at either.
        csv.writer(text, lineterminator="\r\n").writerow(cells)
        return (text.getvalue().removesuffix("\r\n") + "\n").encode("utf-8")


def _is_formula(cell: str) -> bool:
    """Whether a spreadsheet may take it for one; also after blanks, which some of them leave out."""
    start = unicodedata.normalize("NFKC", cell.lstrip()[:1])
    return cell.startswith(("\t", "\r", "\n")) or start.startswith(("=", "+", "-", "@"))


def _as_cell(text: str) -> str:
    """A text that is no formula, and without a NUL, at which some readers end."""
    text = text.replace("\0", "\\x00")
    bare = text.lstrip("'")  # so that no two texts make the same cell
    is_number = re.fullmatch(r"[+-][0-9]+(\.[0-9]+)?", bare)
    return f"'{text}" if _is_formula(bare) and not is_number else text


def _as_line(row: dict[str, Any]) -> bytes:
    return (dumps(row) + "\n").encode("ascii")


# --- Parquet --------------------------------------------------------------------------------------------------------


def need_pyarrow() -> Any:
    """The package for Parquet files.

    Raises:
        MissingExtraError: it is not installed.
    """
    with needing("parquet", "writing .parquet files"):
        import pyarrow
        import pyarrow.parquet
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


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {name: row.get(name) for name in ("unsure", "error", "embedding")}
    flat["path"] = text_of_path(path_of_text(row["path"]))
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
