"""Files of tables → columns. Text is read strictly: a row without the fields of the first line is refused."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vertebra.photo_files import SUFFIXES as PHOTO_SUFFIXES

from .dataset import DataError
from .label_names import is_text

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".parquet")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", " ": "spaces"}
_MARK = "\ufeff"  # the byte order mark; what adds one to a file that has one leaves two
# How files begin that are no text, and what to say of them.
_OTHERS = (
    (b"\xff\xfe\0\0", "it is in UTF-32"),
    (b"PK\x03\x04", "it is an Excel workbook or a ZIP archive"),
    (b"\xd0\xcf\x11\xe0", "it is an old Excel workbook"),
    (b"\x1f\x8b", "it is compressed by gzip"),
    (b"PAR1", "it is a Parquet table, whose name must end in .parquet"),
    (b"version https://git-lfs", "it is a Git LFS pointer; git lfs pull brings the file"),
)

# The type that Excel offers first is in the encoding of the system, Windows-1252 in western Europe.
SAVE_AS_UTF8 = "Save the table as CSV in UTF-8, in Excel the type “CSV UTF-8”."


def is_table(data: str | os.PathLike[str]) -> bool:
    """Whether data is given as a table: by its name's ending."""
    return Path(data).suffix.lower() in TABLE_SUFFIXES and not Path(data).is_dir()


@dataclass(frozen=True)
class Table:
    """The columns of a file, read when they are asked for."""

    source: str  # the file's name, for messages
    names: tuple[str, ...]
    rows: int
    where: Callable[[int], str]  # the place of a row, for people: "line 3" or "row 2"
    column: Callable[[int], list[Any]]  # the values of a column
    kinds: tuple[str, ...]  # the type of each column, as the file has it; "string" for text
    notes: tuple[str, ...] = ()


def read_text(path: Path, fits: Callable[[Sequence[str]], bool]) -> Table:
    """A table of text in UTF-8, or in UTF-16 with its byte order mark.

    `fits` says whether a first line has the names of the columns that are needed; the separator is chosen by it.

    Raises:
        DataError: it cannot be read, is no such text, may have more than one separator, or a row has too few or too
            many fields or a stray quote.
    """
    lines, notes = _lines(path)
    separator, start = None, 0
    if lines and (said := re.fullmatch(r'"?sep=(.)"?', lines[0], re.IGNORECASE)):  # as Excel writes it
        separator, start = said[1], 1
    while start < len(lines) and not lines[start].strip():
        start += 1
    if start == len(lines):
        return Table(str(path), (), 0, str, lambda index: [], ())
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    if separator is None:
        separator = _separator(lines[start:], usual, path, start, fits)
        if separator != usual:
            notes += (f"The fields of {path.name} are separated by {_SEPARATORS[separator]}.",)
    header = _fields(lines[start], separator, path, start)
    if start and len(header) == 1 and (others := [m for m in _SEPARATORS if m != " " and fits(lines[start].split(m))]):
        raise DataError(
            f"{path}, line {start}: {_SEPARATORS.get(separator, repr(separator))} separate the fields, it says, and "
            f"in line {start + 1} {_SEPARATORS[others[0]]} do. Write sep={others[0]}, or leave that line out."
        )
    if not is_text(lines[start]):
        raise _no_utf8(path, start)
    rows: list[list[str]] = []
    numbers: list[int] = []
    empty: list[int] = []
    several: list[int] = []
    longer: list[int] = []
    shorter: list[int] = []
    end = start + 1
    while end < len(lines):
        number, end = end, _end(lines, end)
        if not lines[number].strip(" "):
            continue
        fields = _fields(_joined(lines[number:end], separator, len(header), path, number), separator, path, number)
        if len(fields) >= len(header) and not any(field.strip() for field in fields):
            empty.append(number + 1)  # as spreadsheets write rows that were cleared
            continue
        if (
            not rows
            and len(fields) == len(header) + 1
            and _has_row_numbers(lines[number:], separator, len(header), path)
        ):
            header = ["", *header]  # R's write.table names no column for them
        if len(fields) > len(header) and not any(field.strip() for field in fields[len(header) :]):
            fields = fields[: len(header)]
            longer.append(number + 1)
        elif len(fields) < len(header) and not any(name.strip() for name in header[len(fields) :]):
            fields = [*fields, *[""] * (len(header) - len(fields))]
            shorter.append(number + 1)
        if len(fields) != len(header):
            raise _wrong_fields(
                len(fields), len(header), separator, f"{path}, line {number + 1}", lines[start], lines[number]
            )
        if fields == header:
            raise DataError(
                f"{path}, line {number + 1}: the names of the columns stand here again, as where files were joined. "
                "Leave out this line."
            )
        rows.append(fields)
        numbers.append(number + 1)
        if end > number + 1:
            several.append(number + 1)
    if empty:
        notes += (f"Rows in which all fields are empty, and left out: {len(empty):,}, first in line {empty[0]}.",)
    for what, found in (
        ("that end in more separators than the first line, with nothing behind them", longer),
        ("without the fields of the last columns, which have no name", shorter),
    ):
        if found:
            notes += (f"Rows {what}: {len(found):,}, first in line {found[0]}.",)
    if several:
        notes += (f"Rows with a value of several lines: {len(several):,}, first in line {several[0]}.",)
    return Table(
        str(path),
        tuple(name.strip() for name in header),
        len(rows),
        lambda index: f"line {numbers[index]}",
        lambda index: [row[index] for row in rows],
        ("string",) * len(header),
        notes,
    )


def _separator(lines: Sequence[str], usual: str, path: Path, number: int, fits: Callable[[Sequence[str]], bool]) -> str:
    """What stands between the fields of a table, from its first line: what gives the columns that are needed.

    Where nothing does, what cuts the first lines alike: the error that follows then names the columns.

    Raises:
        DataError: more than one sign would do.
    """
    marks = [usual, *(mark for mark in ",;\t|" if mark != usual)]
    if not any(mark in lines[0] for mark in marks):
        marks.append(" ")
    headers: dict[str, list[str]] = {}
    for mark in marks:
        with suppress(DataError):
            headers[mark] = _fields(lines[0], mark, path, number)
    found = [mark for mark, header in headers.items() if fits(header)]
    if len(found) > 1:
        raise DataError(
            f"{path}, line {number + 1}: the columns may be separated by "
            f"{' or '.join(_SEPARATORS[mark] for mark in found)}. Say by which in a line above it: "
            f"{' or '.join(f'sep={mark}' for mark in found)}."
        )
    if found:
        return found[0]
    first = [line for line in lines[:20] if line.strip()]
    alike = [
        mark
        for mark, header in headers.items()
        if len(header) > 1 and all(line.count(mark) == len(header) - 1 for line in first)
    ]
    return alike[0] if len(alike) == 1 and alike != [" "] else usual


def _has_row_numbers(lines: Sequence[str], separator: str, columns: int, path: Path) -> bool:
    """Whether each row has one field more than the first line, which counts them from 0 or 1."""
    try:
        rows = [_fields(line, separator, path, 0) for line in lines if line.strip()]
    except DataError:  # a value of several lines, perhaps
        return False
    numbers = [row[0].strip() for row in rows]
    return (
        len(rows) > 1
        and all(len(row) == columns + 1 for row in rows)
        and any(numbers == [str(n) for n in range(start, start + len(rows))] for start in (0, 1))
    )


def _lines(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """The lines of a table, and what was odd about its encoding."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    for beginning, what in _OTHERS:
        if content.startswith(beginning):
            raise DataError(f"{path} is no table of text in UTF-8: {what}. {SAVE_AS_UTF8}")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as Excel's "Unicode text" is
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError:
            raise DataError(f"{path} is no table of text in UTF-16, as which it begins. {SAVE_AS_UTF8}") from None
        return re.split(r"\r\n|\n|\r", text.lstrip(_MARK)), (f"{path.name} is read as UTF-16.",)
    if b"\0" in content:
        raise DataError(f"{path} is no table of text in UTF-8: it holds NUL bytes. {SAVE_AS_UTF8}")
    # The names of files may be any bytes; in all else they are refused once it is known where they stand.
    return re.split(r"\r\n|\n|\r", content.decode("utf-8", errors="surrogateescape").lstrip(_MARK)), ()


def _no_utf8(path: Path, number: int) -> DataError:
    return DataError(
        f"{path} is no table of text in UTF-8: line {number + 1} has other bytes, as Latin-1 has them. {SAVE_AS_UTF8}"
    )


def _end(lines: Sequence[str], number: int) -> int:
    """Where the row of a line ends: below it, or below the line that closes its last quote where there is one."""
    quotes = 0
    for end in range(number, len(lines)):
        quotes += lines[end].count('"')
        if quotes % 2 == 0:
            return end + 1
    return number + 1


def _joined(lines: Sequence[str], separator: str, columns: int, path: Path, number: int) -> str:
    """The lines of a row, of which a quoted value has several; the first alone where its quote may be a stray one.

    A stray quote swallows whole rows, up to the next quote: a line within the value that looks like a row, or a first
    and a last line that both do.
    """
    if len(lines) == 1:
        return lines[0]
    if any(_is_photo(field) for line in lines for field in line.split(separator)):

        def is_row(line: str) -> bool:
            fields = line.split(separator)
            return len(fields) >= columns and any(_is_photo(field) for field in fields)
    else:  # a table without suffixes

        def is_row(line: str) -> bool:
            return line.count(separator) >= columns - 1

    if any(map(is_row, lines[1:-1])) or (is_row(lines[0]) and is_row(lines[-1])):
        return lines[0]
    return "\n".join(lines)


def _is_photo(field: str) -> bool:
    return field.strip(' "').lower().endswith(tuple(PHOTO_SUFFIXES))


def _wrong_fields(count: int, columns: int, separator: str, where: str, header: str, line: str) -> DataError:
    remedy = (
        f'Put a value that contains {_SEPARATORS.get(separator, repr(separator))} in quotes: "black{separator} white".'
    )
    if columns == 1:
        remedy = "Leave out what stands above the line that names the columns."
    return DataError(
        f"{where}: it has {count} fields, and the first line names {columns} columns. {remedy}{_comment(header, line)}"
    )


def _comment(*lines: str) -> str:
    return " A line that begins with # is no comment here: leave it out." if any(x[:1] == "#" for x in lines) else ""


def _fields(line: str, separator: str, path: Path, number: int) -> list[str]:
    """The fields of a row.

    Raises:
        DataError: a quote is not closed, or stands within a field.
    """
    if '"' not in line:
        return line.split(separator)
    mark = re.escape(separator)
    field = re.compile(rf' *"((?:[^"]|"")*)" *(?={mark}|$)|([^"{mark}]*)(?={mark}|$)')
    found, at = [], 0
    while at <= len(line):
        match = field.match(line, at)
        if match is None:
            closed = line.count('"') % 2 == 0
            reason = "a quote stands within a field" if closed else "a quote is not closed on its line"
            raise DataError(
                f"{path}, line {number + 1}: {reason}. Put the whole field in quotes and double those in it: "
                '"5"" disk".'
            )
        found.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        at = match.end() + 1
    return found
