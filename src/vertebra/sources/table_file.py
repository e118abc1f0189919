"""Reads text and Parquet tables into columns. A text row with another number of fields is refused."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vertebra.errors import DataError, first_line, require_extra
from vertebra.photo_files import SUFFIXES as PHOTO_SUFFIXES
from vertebra.storage import Location

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".parquet")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", " ": "spaces"}
_MARK = "\ufeff"  # the byte order mark; a file may have two
# First bytes of other files, and the reason to give.
_FILE_SIGNATURES = (
    (b"\xff\xfe\0\0", "it is in UTF-32"),
    (b"PK\x03\x04", "it is an Excel workbook or a ZIP archive"),
    (b"\xd0\xcf\x11\xe0", "it is an old Excel workbook"),
    (b"\x1f\x8b", "it is compressed by gzip"),
    (b"PAR1", "it is a Parquet table, whose name must end in .parquet"),
    (b"version https://git-lfs", "it is a Git LFS pointer; git lfs pull brings the file"),
)

_EMPTY = "Rows in which all fields are empty, and left out"
_LONGER = "Rows that end in more separators than the first line, with nothing behind them"
_SHORTER = "Rows without the fields of the last columns, which have no name"
_SEVERAL = "Rows with a value of several lines"

# Excel's default CSV type has the encoding of the system, Windows-1252 in western Europe.
SAVE_AS_UTF8 = "Save the table as CSV in UTF-8, in Excel the type “CSV UTF-8”."


def is_text(name: str) -> bool:
    """Whether a name is valid Unicode; the bytes of a file's name may not be."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def is_table(data: str | os.PathLike[str]) -> bool:
    """Whether DATA is a table, by its suffix."""
    return Path(data).suffix.lower() in TABLE_SUFFIXES and not Path(data).is_dir()


@dataclass(frozen=True)
class Table:
    """The columns of a file, read on demand."""

    source: str  # the file's name, for messages
    names: tuple[str, ...]
    rows: int
    where: Callable[[int], str]  # a row as people count it: "line 3" or "row 2"
    column: Callable[[int], list[Any]]  # the values of a column
    kinds: tuple[str, ...]  # the type of each column in the file; "string" for text
    notes: tuple[str, ...] = ()

    def holds_text_or_numbers(self, index: int) -> bool:
        """Whether a column has text, numbers or booleans: no bytes, lists or dates."""
        return re.match(r"(large_)?string|bool|u?int|float|double", self.kinds[index]) is not None


def read_text(path: Path | Location, fits: Callable[[Sequence[str]], bool]) -> Table:
    """Read a text table in UTF-8, or in UTF-16 with a byte order mark.

    The separator is the one for which `fits` is true of the fields of the first line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    return parse_text(content, str(path), path.suffix, fits)


def parse_text(content: bytes, path: str, suffix: str, fits: Callable[[Sequence[str]], bool]) -> Table:
    """Parse the content of a text table, as `read_text` reads one; errors call it `path`."""
    lines, notes = _read_lines(content, path)
    separator, start = None, 0
    if lines and (said := re.fullmatch(r'"?sep=(.)"?', lines[0], re.IGNORECASE)):  # as Excel writes it
        separator, start = said[1], 1
    while start < len(lines) and not lines[start].strip():
        start += 1
    if start == len(lines):
        return Table(path, (), 0, str, lambda index: [], ())
    usual = "," if suffix.lower() == ".csv" else "\t"
    if separator is None:
        separator = _separator(lines[start:], usual, path, start, fits)
        if separator != usual:
            notes += (f"The fields of {_base(path)} are separated by {_SEPARATORS[separator]}.",)
    header = _split_fields(lines[start], separator, path, start)
    if start and len(header) == 1 and (others := [m for m in _SEPARATORS if m != " " and fits(lines[start].split(m))]):
        raise DataError(
            f"{path}, line {start}: {_SEPARATORS.get(separator, repr(separator))} separate the fields, it says, and "
            f"in line {start + 1} {_SEPARATORS[others[0]]} do. Write sep={others[0]}, or leave that line out."
        )
    if not is_text(lines[start]):
        what = f"line {start + 1} has other bytes, as Latin-1 has them"
        raise DataError(f"{path} is no table of text in UTF-8: {what}. {SAVE_AS_UTF8}")
    rows: list[list[str]] = []
    numbers: list[int] = []
    unusual: dict[str, list[int]] = {what: [] for what in (_EMPTY, _LONGER, _SHORTER, _SEVERAL)}  # numbers of lines
    end = start + 1
    while end < len(lines):
        number, end = end, _row_end(lines, end)
        if not lines[number].strip(" "):
            continue
        row = _join_row(lines[number:end], separator, len(header))
        fields = _split_fields(row, separator, path, number)
        if len(fields) >= len(header) and not any(field.strip() for field in fields):
            unusual[_EMPTY].append(number + 1)  # as spreadsheets write rows that were cleared
            continue
        if (
            not rows
            and len(fields) == len(header) + 1
            and _has_row_numbers(lines[number:], separator, len(header), path)
        ):
            header = ["", *header]  # R's write.table names no column for them
        if len(fields) > len(header) and not any(field.strip() for field in fields[len(header) :]):
            fields = fields[: len(header)]
            unusual[_LONGER].append(number + 1)
        elif len(fields) < len(header) and not any(name.strip() for name in header[len(fields) :]):
            fields = [*fields, *[""] * (len(header) - len(fields))]
            unusual[_SHORTER].append(number + 1)
        if len(fields) != len(header):
            name = _SEPARATORS.get(separator, repr(separator))
            remedy = f'Put a value that contains {name} in quotes: "black{separator} white".'
            if len(header) == 1:
                remedy = "Leave out what stands above the line that names the columns."
            if lines[start].startswith("#") or lines[number].startswith("#"):
                remedy += " A line that begins with # is no comment here: leave it out."
            raise DataError(
                f"{path}, line {number + 1}: it has {len(fields)} fields, and the first line names {len(header)} "
                f"columns. {remedy}"
            )
        if fields == header:
            raise DataError(
                f"{path}, line {number + 1}: the names of the columns stand here again, as where files were joined. "
                "Leave out this line."
            )
        rows.append(fields)
        numbers.append(number + 1)
        if end > number + 1:
            unusual[_SEVERAL].append(number + 1)
    notes += tuple(f"{what}: {len(at):,}, first in line {at[0]}." for what, at in unusual.items() if at)
    return Table(
        path,
        tuple(name.strip() for name in header),
        len(rows),
        lambda index: f"line {numbers[index]}",
        lambda index: [row[index] for row in rows],
        ("string",) * len(header),
        notes,
    )


def read_parquet(path: Path | Location) -> Table:
    """Open a .parquet file; columns are read on demand."""
    with require_extra("parquet", f"reading {path.name}"):
        import pyarrow
        from pyarrow import parquet

    def column(index: int) -> list[Any]:
        try:
            values: list[Any] = file.read(columns=[names[index]]).column(0).to_pylist()
        except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"{path}: the column {names[index]!r} cannot be read ({first_line(error)}).") from error
        return values

    try:
        # `read_table` would read folders named `split=train` above the file as columns.
        file = parquet.ParquetFile(path.open() if isinstance(path, Location) else path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no Parquet table ({first_line(error)}).") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or first_line(error)}).") from error
    names = tuple(file.schema_arrow.names)
    # Of a dictionary-encoded column, the type of its values.
    kinds = tuple(
        str(kind.value_type if pyarrow.types.is_dictionary(kind) else kind) for kind in file.schema_arrow.types
    )
    return Table(str(path), names, file.metadata.num_rows, lambda index: f"row {index + 1}", column, kinds)


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _separator(lines: Sequence[str], usual: str, path: str, number: int, fits: Callable[[Sequence[str]], bool]) -> str:
    """Return the separator for which `fits` is true of the first line.

    If there is none, the one that splits the first lines into equally many fields, so that the error names the columns.
    """
    marks = [usual, *(mark for mark in ",;\t|" if mark != usual)]
    if not any(mark in lines[0] for mark in marks):
        marks.append(" ")
    headers: dict[str, list[str]] = {}
    for mark in marks:
        with suppress(DataError):
            headers[mark] = _split_fields(lines[0], mark, path, number)
    found = [mark for mark, header in headers.items() if fits(header)]
    if len(found) > 1 and all(len(headers[mark]) == 1 for mark in found):
        return usual  # one column
    if len(found) > 1:
        raise DataError(
            f"{path}, line {number + 1}: the columns may be separated by "
            f"{' or '.join(_SEPARATORS[mark] for mark in found)}. Say by which in a line above it: "
            f"{' or '.join(f'sep={mark}' for mark in found)}."
        )
    if found:
        return found[0]
    first = [line for line in lines[:20] if line.strip()]
    consistent = [
        mark
        for mark, header in headers.items()
        if len(header) > 1 and all(line.count(mark) == len(header) - 1 for line in first)
    ]
    return consistent[0] if len(consistent) == 1 and consistent != [" "] else usual


def _has_row_numbers(lines: Sequence[str], separator: str, columns: int, path: str) -> bool:
    """Whether each row has one more field than the first line, a row number from 0 or 1."""
    try:
        rows = [_split_fields(line, separator, path, 0) for line in lines if line.strip()]
    except DataError:  # maybe a value of several lines
        return False
    numbers = [row[0].strip() for row in rows]
    return (
        len(rows) > 1
        and all(len(row) == columns + 1 for row in rows)
        and any(numbers == [str(n) for n in range(start, start + len(rows))] for start in (0, 1))
    )


def _read_lines(content: bytes, path: str) -> tuple[list[str], tuple[str, ...]]:
    """Split the content of a table into lines, and a note if it is UTF-16."""
    for beginning, what in _FILE_SIGNATURES:
        if content.startswith(beginning):
            raise DataError(f"{path} is no table of text in UTF-8: {what}. {SAVE_AS_UTF8}")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as Excel's "Unicode text" is
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError:
            raise DataError(f"{path} is no table of text in UTF-16, as which it begins. {SAVE_AS_UTF8}") from None
        return re.split(r"\r\n|\n|\r", text.lstrip(_MARK)), (f"{_base(path)} is read as UTF-16.",)
    if b"\0" in content:
        raise DataError(f"{path} is no table of text in UTF-8: it holds NUL bytes. {SAVE_AS_UTF8}")
    # File names may be any bytes; elsewhere, invalid UTF-8 is refused later, with its row.
    return re.split(r"\r\n|\n|\r", content.decode("utf-8", errors="surrogateescape").lstrip(_MARK)), ()


def _row_end(lines: Sequence[str], number: int) -> int:
    """Return the index after the last line of a row, which may span lines inside quotes."""
    quotes = 0
    for end in range(number, len(lines)):
        quotes += lines[end].count('"')
        if quotes % 2 == 0:
            return end + 1
    return number + 1


def _join_row(lines: Sequence[str], separator: str, columns: int) -> str:
    """Join the lines of a row with a quoted value of several lines; return only the first if its quote may be stray.

    A stray quote swallows whole rows up to the next quote: a line inside the value, or both the first and the last
    line, then looks like a row.
    """
    if len(lines) == 1:
        return lines[0]
    rows = [line.split(separator) for line in lines]
    photos = [any(map(is_photo_name, fields)) for fields in rows]
    # In a table without suffixes, a line with enough fields looks like a row.
    is_row = [len(row) >= columns and (photo or not any(photos)) for row, photo in zip(rows, photos, strict=True)]
    return lines[0] if any(is_row[1:-1]) or (is_row[0] and is_row[-1]) else "\n".join(lines)


def is_photo_name(text: str) -> bool:
    """Whether a field, with or without quotes, has the suffix of a photo."""
    return text.strip(' "').lower().endswith(tuple(PHOTO_SUFFIXES))


def _split_fields(line: str, separator: str, path: str, number: int) -> list[str]:
    """Split a row into fields; a quote that is unclosed or inside a field is a DataError."""
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
