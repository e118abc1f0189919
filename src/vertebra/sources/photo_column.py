"""Which column of a Parquet file has the bytes of photos, by its first row."""

from __future__ import annotations

import shlex
from typing import Any

from vertebra.errors import UsageError
from vertebra.photo_files import HEAD_BYTES, image_format
from vertebra.storage import Location

from .parquet_bytes import bytes_columns, holds_bytes, is_text_type, open_parquet
from .path_columns import column_key, name_column

_LONGEST_PATH = 4096  # bytes
_PHOTO_NAMES = frozenset(
    (
        *("image", "images", "img", "imgs", "photo", "photos", "picture", "jpg", "jpeg", "png", "webp", "bytes"),
        *("content", "data", "raw", "imagebytes", "imagedata", "imagecontent", "imgbytes", "imgdata", "photobytes"),
    )
)


def photo_column(location: Location, given: str | None) -> str | None:
    """Return the column with the bytes of photos in a Parquet file; None: it has none, and is a table of paths.

    Paths, labels, checksums and embeddings may be of the type of bytes too, so the first row decides: a photo begins as
    an image does. If none does (its bytes may be null or damaged), a column counts that is named as photos are, or what
    is no text where no column has paths. `given` names the column of photos or of paths.

    Raises:
        UsageError: there are several.
        StorageError: the file cannot be read.
    """
    with open_parquet(location) as file:
        schema = file.schema_arrow
        found = [name for name in schema.names if schema.names.count(name) == 1 and _is_struct(schema, name)]
        first = None if found else next(file.iter_batches(batch_size=1), None)
        if first is not None and first.num_rows:
            found = _by_first_row(schema, first)
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


def _by_first_row(schema: Any, first: Any) -> list[str]:
    values = {
        field.name: first.column(index)[0].as_py()
        for index, field in enumerate(schema)
        if holds_bytes(field.type) is False
    }
    if found := [name for name, value in values.items() if value and image_format(value[:HEAD_BYTES]) is not None]:
        return found
    unclear = [name for name, value in values.items() if not value or b"\0" in value or len(value) > _LONGEST_PATH]
    named = [name for name in unclear if column_key(name) in _PHOTO_NAMES]
    has_paths = name_column([field.name for field in schema if is_text_type(field.type)]) is not None
    return named or ([] if has_paths else unclear)
