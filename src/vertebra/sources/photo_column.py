"""Which column of a Parquet file has the bytes of photos, by its first row."""

from __future__ import annotations

import shlex
from typing import Any

from vertebra.errors import UsageError
from vertebra.photo_files import HEAD_BYTES, image_format
from vertebra.storage import Location

from .parquet_bytes import bytes_columns, open_parquet

_LONGEST_PATH = 4096  # bytes


def photo_column(location: Location, given: str | None) -> str | None:
    """Return the column with the bytes of photos in a Parquet file; None: it has none, and is a table of paths.

    Paths and labels may be of the type of bytes too, so the first row decides. `given` names the column of photos or of
    paths.

    Raises:
        UsageError: there are several.
        StorageError: the file cannot be read.
    """
    with open_parquet(location) as file:
        schema = file.schema_arrow
        found = [name for name in schema.names if schema.names.count(name) == 1 and _is_struct(schema, name)]
        first = None if found else next(file.iter_batches(batch_size=1), None)
        if first is not None and first.num_rows:
            found = [name for name, values in zip(schema.names, first.columns, strict=True) if _is_image(values[0])]
    if given is not None:
        return given if given in found else None
    if len(found) > 1:
        raise UsageError(
            f"{location} has {len(found)} columns of photos: {', '.join(map(repr, found))}. Say which: "
            f"{' or '.join(f'--path-column {shlex.quote(name)}' for name in found)}."
        )
    return found[0] if found else None


def _is_struct(schema: Any, name: str) -> bool:
    """Whether a column is a struct with a field `bytes`, as Hugging Face's images are."""
    found = bytes_columns(schema, "", name)
    return found is not None and found.is_struct


def _is_image(scalar: Any) -> bool:
    """Whether a value is the content of an image file: no text is so long, or has a NUL."""
    value = scalar.as_py()
    if not isinstance(value, bytes):
        return False
    return image_format(value[:HEAD_BYTES]) is not None or b"\0" in value or len(value) > _LONGEST_PATH
