"""Reads text and Parquet tables into columns. A text row with another number of fields is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vertebra.errors import DataError, first_line, require_extra
from vertebra.storage import Location

from .photo_column import value_type
from .text_table import TextTable

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".parquet")


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
        with path.open() if isinstance(path, Location) else path.open("rb") as file:
            text = TextTable(file, str(path), fits)
            numbered = list(text.rows())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    if not text.names:
        return Table(str(path), (), 0, str, lambda index: [], ())
    return Table(
        str(path),
        text.names,
        len(numbered),
        lambda index: f"line {numbered[index][0]}",
        lambda index: [row[index] for _, row in numbered],
        ("string",) * len(text.names),
        text.notes,
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
    kinds = tuple(str(value_type(kind)) for kind in file.schema_arrow.types)
    return Table(str(path), names, file.metadata.num_rows, lambda index: f"row {index + 1}", column, kinds)
