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

    start = b'{"path": "'  # of every file of results
    head = b""  # before the first row

    def __init__(self, top: int, embed: bool, unsure: bool) -> None:
        self.top, self.embed, self.unsure = top, embed, unsure

    def line(self, result: Prediction) -> bytes:
        """A result's row."""
        return to_json_line(to_row(result))

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


class Csv:
    """A table: path, class and probability by rank, error; quoted as RFC 4180 has it, lines ended as Unix does."""

    start = b"path,class_1,probability_1,"

    def __init__(self, top: int, embed: bool, unsure: bool) -> None:
        self.top, self.embed, self.unsure = top, embed, unsure
        self.columns = ["path"]
        for rank in range(1, top + 1):
            self.columns += [f"class_{rank}", f"probability_{rank}"]
        self.columns += ["unsure"] * unsure + ["error"] + ["embedding"] * embed
        self.head = self._row(self.columns)

    def line(self, result: Prediction) -> bytes:
        """A result's row."""
        row = to_row(result)
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


def to_json_line(row: dict[str, Any]) -> bytes:
    """An object as a line of ASCII."""
    return (dumps(row) + "\n").encode("ascii")
