"""Parquet files → the columns of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vertebra.errors import first_line, needing

from .dataset import DataError
from .table_file import Table


def read_parquet(path: Path) -> Table:
    """A .parquet file, of which only the columns that are asked for are read.

    Raises:
        DataError: it cannot be read.
        MissingExtraError: pyarrow is not installed.
    """
    with needing("parquet", f"reading {path.name}"):
        import pyarrow
        from pyarrow import parquet

    def column(index: int) -> list[Any]:
        try:
            values: list[Any] = file.read(columns=[names[index]]).column(0).to_pylist()
        except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"{path}: the column {names[index]!r} cannot be read ({first_line(error)}).") from error
        return values

    try:
        # Not `read_table`, which takes folders named `split=train` above the file for columns of it.
        file = parquet.ParquetFile(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is no Parquet table ({first_line(error)}).") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or first_line(error)}).") from error
    schema = file.schema_arrow
    names = tuple(schema.names)
    kinds = tuple(_kind(field.type) for field in schema)
    return Table(str(path), names, file.metadata.num_rows, lambda index: f"row {index + 1}", column, kinds)


def _kind(found: Any) -> str:
    """A column's type: that of its values, where they are numbered in a dictionary."""
    return str(getattr(found, "value_type", found) if str(found).startswith("dictionary") else found)
