"""Results as a Parquet table, whose rows are those of JSON lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from vertebra.errors import UsageError, require_extra

from .formats import Csv, JsonLines, path_of_text, text_of_path, to_json_line

# Metadata key of the `RunRecord`.
RECORD_KEY = b"vertebra.predict"


def need_pyarrow() -> Any:
    """Import pyarrow; a `MissingExtraError` if it is not installed."""
    with require_extra("parquet", "writing .parquet files"):
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
    return pyarrow.schema(fields, metadata={RECORD_KEY: record} if record else None)


def result_table(rows: Iterable[dict[str, Any]], format: Csv | JsonLines) -> Any:
    """Return rows (`formats.to_row`) as an Arrow table."""
    pyarrow = need_pyarrow()
    return pyarrow.Table.from_pylist([_flat(row) for row in rows], schema=_schema(pyarrow, format, b""))


def write_parquet(
    where: Path | IO[bytes], rows: Iterable[dict[str, Any]], format: Csv | JsonLines, record: bytes = b""
) -> None:
    """Write rows (`formats.to_row`) as Parquet with that record in its metadata, a few thousand at a time."""
    pyarrow = need_pyarrow()
    schema = _schema(pyarrow, format, record)
    with pyarrow.parquet.ParquetWriter(where, schema) as writer:
        waiting: list[dict[str, Any]] = []
        for row in rows:
            waiting.append(_flat(row))
            if len(waiting) == (1024 if format.embed else 4096):  # an embedding is 40 kB as a list
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))
                waiting = []
        writer.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {name: row.get(name) for name in ("unsure", "error", "embedding")}
    flat["path"] = text_of_path(path_of_text(row["path"]))
    for rank, entry in enumerate(row["predictions"], 1):
        flat |= {f"class_{rank}": entry["class"], f"index_{rank}": entry["index"]}
        flat[f"probability_{rank}"] = entry["probability"]
    return flat


def parquet_record(path: Path) -> tuple[int, bytes]:
    """Read the row count and record (or b"") of a file by `write_parquet`; a `UsageError` for other files."""
    pyarrow = need_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as found:
            names, metadata = found.schema_arrow.names, found.schema_arrow.metadata or {}
            if not _are_columns_of_results(names):
                raise _foreign_file_error(path)
            return found.metadata.num_rows, metadata.get(RECORD_KEY, b"")
    except pyarrow.ArrowException as error:
        raise _foreign_file_error(path) from error


def _are_columns_of_results(names: list[str]) -> bool:
    """Whether a file by `write_parquet` may have these columns, whatever its options."""
    top = max(1, sum(name.startswith("class_") for name in names))
    options = itertools.product((False, True), (False, True))
    return any(names == _schema(need_pyarrow(), JsonLines(top, *each), b"").names for each in options)


def parquet_lines(path: Path) -> Iterator[bytes]:
    """Yield the rows of a file by `write_parquet` as JSON lines."""
    pyarrow = need_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as found:
            for batch in found.iter_batches():
                for row in batch.to_pylist():
                    yield to_json_line(_nested(row))
    except (pyarrow.ArrowException, KeyError) as error:
        raise _foreign_file_error(path) from error


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    ranks = range(1, sum(name.startswith("class_") for name in row) + 1)
    predictions = [
        {"class": row[f"class_{r}"], "index": row[f"index_{r}"], "probability": row[f"probability_{r}"]}
        for r in ranks
        if row[f"class_{r}"] is not None
    ]
    restored = {"path": row["path"], "predictions": predictions, "error": row["error"]}
    return restored | {name: row[name] for name in ("unsure", "embedding") if row.get(name) is not None}


def _foreign_file_error(path: Path) -> UsageError:
    return UsageError(f"{path} is not a file that this command has written. Give another file.")
