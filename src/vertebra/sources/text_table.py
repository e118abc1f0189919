"""Reads a text table row by row, however long it is. A row with another number of fields is refused."""

from __future__ import annotations

import codecs
import io
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

from vertebra.errors import DataError
from vertebra.photo_files import SUFFIXES as PHOTO_SUFFIXES

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


_BUFFER = 4_194_304  # bytes that are read at once: over a network, each is a request
_MOST_LINES = 10_000  # of one value in quotes
_NUMBERED = 1_000  # rows of which all have to begin with their number, for these to be no column


def is_text(name: str) -> bool:
    """Whether a name is valid Unicode; the bytes of a file's name may not be."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def is_photo_name(text: str) -> bool:
    """Whether a field, with or without quotes, has the suffix of a photo."""
    return text.strip(' "').lower().endswith(tuple(PHOTO_SUFFIXES))


class TextTable:
    """A text table in UTF-8, or in UTF-16 with a byte order mark: the names of its columns, and its rows one by one.

    The separator is the one for which `fits` is true of the fields of the first line.

    Args:
        file: read from its begin to its end, once.
        path: the file's path or URI, for messages.

    Raises:
        DataError: it is no table; while iterating, a row cannot be read.
    """

    def __init__(self, file: IO[bytes], path: str, fits: Callable[[Sequence[str]], bool]) -> None:
        self.path = path
        self._notes: list[str] = []
        self._unusual: dict[str, list[int]] = {what: [0, 0] for what in (_EMPTY, _LONGER, _SHORTER, _SEVERAL)}
        self._lines = lines = _Lines(file, path)
        if lines.is_utf16:
            self._notes.append(f"{self._name} is read as UTF-16.")
        separator, start = None, 0
        if lines.has(0) and (said := re.fullmatch(r'"?sep=(.)"?', lines[0], re.IGNORECASE)):  # as Excel writes it
            separator, start = said[1], 1
        while lines.has(start) and not lines[start].strip():
            start += 1
        self._start = start
        self._header: list[str] = []
        self.separator = separator or ","
        if lines.has(start):
            self._read_header(separator, fits)
        self.names = tuple(name.strip() for name in self._header)

    @property
    def _name(self) -> str:
        return self.path.rpartition("/")[2]

    def _read_header(self, separator: str | None, fits: Callable[[Sequence[str]], bool]) -> None:
        lines, path, start = self._lines, self.path, self._start
        first = lines[start]
        usual = "," if path.lower().endswith(".csv") else "\t"
        if separator is None:
            separator = _separator(lines.some(start, 20), usual, path, start, fits)
            if separator != usual:
                self._notes.append(f"The fields of {self._name} are separated by {_SEPARATORS[separator]}.")
        header = _split_fields(first, separator, path, start)
        if start and len(header) == 1 and (others := [m for m in _SEPARATORS if m != " " and fits(first.split(m))]):
            raise DataError(
                f"{path}, line {start}: {_SEPARATORS.get(separator, repr(separator))} separate the fields, it says, "
                f"and in line {start + 1} {_SEPARATORS[others[0]]} do. Write sep={others[0]}, or leave that line out."
            )
        if not is_text(first):
            what = f"line {start + 1} has other bytes, as Latin-1 has them"
            raise DataError(f"{path} is no table of text in UTF-8: {what}. {SAVE_AS_UTF8}")
        self.separator, self._header, self._is_comment = separator, header, first.startswith("#")
        if self._has_row_numbers():
            self._header = ["", *header]  # R's write.table names no column for them

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of each row's line, from 1, and its fields."""
        lines, header, unusual = self._lines, self._header, self._unusual
        for number, end, fields in self._raw_rows(self._start + 1, keep=False):
            if len(fields) > len(header) and not any(field.strip() for field in fields[len(header) :]):
                fields = fields[: len(header)]
                _count(unusual[_LONGER], number)
            elif len(fields) < len(header) and not any(name.strip() for name in header[len(fields) :]):
                fields = [*fields, *[""] * (len(header) - len(fields))]
                _count(unusual[_SHORTER], number)
            if len(fields) != len(header):
                raise self._wrong_number(number, fields, lines[number])
            if fields == header:
                raise DataError(
                    f"{self.path}, line {number + 1}: the names of the columns stand here again, as where files were "
                    "joined. Leave out this line."
                )
            if end > number + 1:
                _count(unusual[_SEVERAL], number)
            yield number + 1, fields

    @property
    def notes(self) -> tuple[str, ...]:
        """How it was read; complete once all rows are."""
        told = (f"{what}: {count:,}, first in line {first}." for what, (count, first) in self._unusual.items() if count)
        return (*self._notes, *told)

    def _raw_rows(self, start: int, keep: bool) -> Iterator[tuple[int, int, list[str]]]:
        """Yield line, line behind and fields of each row that is not empty; `keep` its lines for another time."""
        lines, end = self._lines, start
        while lines.has(end):
            number, end = end, _row_end(lines, end)
            if not keep:
                lines.drop(number)
            if not lines[number].strip(" "):
                continue
            row = _join_row(lines.some(number, end - number), self.separator, len(self._header))
            fields = _split_fields(row, self.separator, self.path, number)
            if len(fields) >= len(self._header) and not any(field.strip() for field in fields):
                if not keep:
                    _count(self._unusual[_EMPTY], number)  # as spreadsheets write rows that were cleared
                continue
            yield number, end, fields

    def _has_row_numbers(self) -> bool:
        """Whether each row has one more field than the first line, a row number from 0 or 1."""
        columns = len(self._header)
        first = None
        with suppress(DataError):  # which reading the rows raises again
            first = next(self._raw_rows(self._start + 1, keep=True), None)
        if first is None or len(first[2]) != columns + 1:
            return False
        try:
            # One line is one row: these tables have no value of several lines.
            some = self._lines.some(first[0], _NUMBERED)
            rows = [_split_fields(line, self.separator, self.path, 0) for line in some if line.strip()]
        except DataError:
            return False
        numbers = [row[0].strip() for row in rows]
        return (
            len(rows) > 1
            and all(len(row) == columns + 1 for row in rows)
            and any(numbers == [str(n) for n in range(start, start + len(rows))] for start in (0, 1))
        )

    def _wrong_number(self, number: int, fields: Sequence[str], line: str) -> DataError:
        name = _SEPARATORS.get(self.separator, repr(self.separator))
        remedy = f'Put a value that contains {name} in quotes: "black{self.separator} white".'
        if len(self._header) == 1:
            remedy = "Leave out what stands above the line that names the columns."
        if self._is_comment or line.startswith("#"):
            remedy += " A line that begins with # is no comment here: leave it out."
        return DataError(
            f"{self.path}, line {number + 1}: it has {len(fields)} fields, and the first line names "
            f"{len(self._header)} columns. {remedy}"
        )


def _count(found: list[int], number: int) -> None:
    """Count a line, and keep the first one."""
    found[0] += 1
    found[1] = found[1] or number + 1


class _Lines:
    """The lines of a file by their numbers from 0, of which those that were dropped are in memory no more."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._path = path
        raw: Any = file
        buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(raw, _BUFFER)
        head = buffered.peek(64)
        for beginning, what in _FILE_SIGNATURES:
            if head.startswith(beginning):
                raise DataError(f"{path} is no table of text in UTF-8: {what}. {SAVE_AS_UTF8}")
        self.is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode text"
        # File names may be any bytes; elsewhere, invalid UTF-8 is refused later, with its row.
        encoding, errors = ("utf-16", "strict") if self.is_utf16 else ("utf-8", "surrogateescape")
        self._text = io.TextIOWrapper(buffered, encoding=encoding, errors=errors)
        self._some: deque[str] = deque()
        self._first = 0  # number of the first that is kept
        self._ended = False
        self._error: DataError | None = None

    def has(self, number: int) -> bool:
        """Whether there is such a line."""
        while not self._ended and number >= self._first + len(self._some):
            self._read()
        return number < self._first + len(self._some)

    def __getitem__(self, number: int) -> str:
        if not self.has(number):
            raise IndexError(number)
        return self._some[number - self._first]

    def some(self, start: int, count: int) -> list[str]:
        """Return lines from `start` on, fewer at the end."""
        return [self[number] for number in range(start, start + count) if self.has(number)]

    def drop(self, before: int) -> None:
        """Forget the lines before one."""
        while self._first < before and self._some:
            self._some.popleft()
            self._first += 1

    def _read(self) -> None:
        if self._error is not None:  # for good: what cannot be read is not passed over
            raise self._error
        try:
            line = self._text.readline()
        except UnicodeError:
            self._error = DataError(f"{self._path} is no table of text in UTF-16, as which it begins. {SAVE_AS_UTF8}")
            raise self._error from None
        if not line:
            self._ended = True
            return
        if "\0" in line and not self.is_utf16:
            self._error = DataError(f"{self._path} is no table of text in UTF-8: it holds NUL bytes. {SAVE_AS_UTF8}")
            raise self._error
        number = self._first + len(self._some)
        self._some.append(line.removesuffix("\n").lstrip(_MARK) if not number else line.removesuffix("\n"))


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


def _row_end(lines: _Lines, number: int) -> int:
    """Return the index after the last line of a row, which may span lines inside quotes."""
    quotes = 0
    for end in range(number, number + _MOST_LINES):
        if not lines.has(end):
            break
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
