r"""The columns of a results file (`Csv`) and its rows as CSV or JSON lines; Parquet is made from JSON lines.

File names are arbitrary bytes and these formats hold Unicode: `text_of_path` escapes a name, `path_of_text` restores
it. Spreadsheets run a cell that begins with `=`, `+`, `-`, `@`, a tab or a line break as a formula, full-width forms
included (https://owasp.org/www-community/attacks/CSV_Injection). Such a path is prefixed with `./`, which names the
same file, and any other such cell that is not a number with `'`.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import IO, Any

from vertebra.strict_json import dumps

from .prediction import Prediction


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


def to_row(result: Prediction) -> dict[str, Any]:
    """A result for JSON, all texts in it Unicode."""
    row = result.as_dict() | {"path": text_of_path(result.path)}
    row["predictions"] = [entry | {"class": _to_unicode(entry["class"])} for entry in row["predictions"]]
    return row | {"error": None if result.error is None else _to_unicode(result.error)}


def _to_unicode(text: str) -> str:
    r"""As Unicode: bytes that are none (as of a file's name in an error) are written `\xNN`."""
    if text.isascii():
        return text
    escaped = re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


class JsonLines:
    """JSON lines: the object that `--json` prints, one a line, in ASCII."""

    head = b""  # before the first row

    def __init__(self, top: int, embed: bool, unsure: bool) -> None:
        self.top, self.embed, self.unsure = top, embed, unsure

    def line(self, result: Prediction) -> bytes:
        """A result's row."""
        return to_json_line(to_row(result))

    @staticmethod
    def is_first_line(line: bytes) -> bool:
        """Whether a file of results may begin with this line, whatever its options; killed runs leave half a line."""
        try:
            row = json.loads(line)
        except ValueError:
            start = b'{"path": "'
            return not line.endswith(b"\n") and line[: len(start)] == start[: len(line)]
        keys = {"path", "predictions", "error"}
        return isinstance(row, dict) and keys <= row.keys() <= keys | {"unsure", "embedding"}

    def records(self, file: IO[bytes]) -> Iterator[bytes]:
        """Yield the complete lines of an open file."""
        for line in file:
            if line.endswith(b"\n"):
                yield line

    def read(self, record: bytes) -> tuple[str, bool] | None:
        """Parse a line into its path and whether the photo failed; None if this command did not write the line."""
        try:
            row = json.loads(record)
            fits = isinstance(row["path"], str) and len(row["predictions"]) <= self.top
            fits = fits and (row["error"] is not None or ("embedding" in row) == self.embed)
        except (ValueError, KeyError, TypeError):
            return None
        return (path_of_text(row["path"]), row["error"] is not None) if fits else None


class Csv:
    """A table: path, class and probability by rank, error; quoted as RFC 4180 has it, lines ended as Unix does."""

    def __init__(self, top: int, embed: bool, unsure: bool) -> None:
        self.top, self.embed, self.unsure = top, embed, unsure
        self.columns = ["path"]
        for rank in range(1, top + 1):
            self.columns += [f"class_{rank}", f"probability_{rank}"]
        self.columns += ["unsure"] * unsure + ["error"] + ["embedding"] * embed
        self.head = self._encode(self.columns)

    def line(self, result: Prediction) -> bytes:
        """A result's row."""
        row = to_row(result)
        cells = {"path": f"./{row['path']}" if _is_formula(row["path"]) else row["path"]}
        for rank, entry in enumerate(row["predictions"], 1):
            cells |= {f"class_{rank}": _as_cell(entry["class"]), f"probability_{rank}": f"{entry['probability']:.6g}"}
        cells["unsure"] = "" if result.unsure is None else str(result.unsure).lower()
        cells["error"] = _as_cell(row["error"] or "")
        if self.embed and result.embedding is not None:
            cells["embedding"] = dumps([round(float(value), 6) for value in result.embedding])
        return self._encode(cells.get(column, "") for column in self.columns)

    @staticmethod
    def is_first_line(line: bytes) -> bool:
        """Whether a file of results may begin with this line, whatever its options; killed runs leave half a line."""
        ranks = line.count(b"class_")
        options = itertools.product((max(1, ranks), ranks + 1), (False, True), (False, True))
        return any(Csv(*each).head.startswith(line) for each in options)

    def records(self, file: IO[bytes]) -> Iterator[bytes]:
        """Yield the complete rows of an open file; a line break inside quotes does not end a row."""
        record = b""
        for line in file:
            record += line
            if line.endswith(b"\n") and record.count(b'"') % 2 == 0:
                yield record
                record = b""

    def read(self, record: bytes) -> tuple[str, bool] | None:
        """Parse a row into its path and whether the photo failed; None if this command did not write the row."""
        try:
            rows = list(csv.reader(io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")))
        except csv.Error:
            return None
        if len(rows) != 1 or len(rows[0]) != len(self.columns):
            return None
        path = rows[0][0]
        path = path[2:] if path.startswith("./") and _is_formula(path[2:]) else path
        return path_of_text(path), rows[0][self.columns.index("error")] != ""

    def _encode(self, cells: Iterable[str]) -> bytes:
        text = io.StringIO()
        # What is in the line's end is quoted in cells: both characters, as readers end lines at either.
        csv.writer(text, lineterminator="\r\n").writerow(cells)
        return (text.getvalue().removesuffix("\r\n") + "\n").encode("utf-8")


def _is_formula(cell: str) -> bool:
    """Whether a spreadsheet may run the cell as a formula; some ignore leading blanks."""
    start = unicodedata.normalize("NFKC", cell.lstrip()[:1])
    return cell.startswith(("\t", "\r", "\n")) or start.startswith(("=", "+", "-", "@"))


def _as_cell(text: str) -> str:
    """Escape formulas, and NUL, at which some readers stop."""
    text = text.replace("\0", "\\x00")
    bare = text.lstrip("'")  # so that no two texts make the same cell
    is_number = re.fullmatch(r"[+-][0-9]+(\.[0-9]+)?", bare)
    return f"'{text}" if _is_formula(bare) and not is_number else text


def to_json_line(row: dict[str, Any]) -> bytes:
    """An object as a line of ASCII."""
    return (dumps(row) + "\n").encode("ascii")
