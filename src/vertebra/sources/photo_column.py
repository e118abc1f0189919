"""Which column of an Arrow schema has the photos: by types and names, and by the first row where that can be read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vertebra.errors import UsageError
from vertebra.photo_files import HEAD_BYTES, image_format

from .path_columns import column_key, name_column

_LONGEST_PATH = 4096  # bytes
_PHOTO_NAMES = frozenset(
    (
        *("image", "images", "img", "imgs", "photo", "photos", "picture", "jpg", "jpeg", "png", "webp", "bytes"),
        *("content", "data", "raw", "imagebytes", "imagedata", "imagecontent", "imgbytes", "imgdata", "photobytes"),
    )
)


def path_column_option(name: str) -> str:
    """Return what says on the command line that a column has the photos."""
    return f"--path-column {shlex.quote(name)}"


def photo_column(
    schema: Any,
    source: object,
    given: str | None = None,
    *,
    option: Callable[[str], str] = path_column_option,
    first_row: Callable[[], Sequence[Any] | None] = lambda: None,
) -> str | None:
    """Return the column with the bytes of photos; None: there is none, and the photos are in columns of paths.

    A struct with a field `bytes`, as Hugging Face's images are, comes first. Paths, labels, checksums and embeddings
    may be of the type of bytes too, so the first row decides: a photo begins as an image does. If none does (its bytes
    may be null or damaged), a column counts that is named as photos are, or what is no text where no column has paths.
    Where no row is known, names decide, and then types.

    Args:
        schema: of Arrow.
        source: what has it, for errors.
        given: the column with the photos or their paths; None: any.
        option: how to give a column, for errors.
        first_row: called if needed; returns the values of all columns; None: there is no row.

    Raises:
        UsageError: there are several.
    """
    columns = [(index, column) for index, column in enumerate(schema) if given in (None, column.name)]
    found = [column.name for _, column in columns if holds_bytes(column.type)]
    if not found:
        plain = [(index, column.name) for index, column in columns if holds_bytes(column.type) is False]
        row = first_row() if plain else None
        values = {name: None if row is None else row[index] for index, name in plain}
        has_paths = row is not None and name_column(text_columns(column for _, column in columns)) is not None
        found = _by_values(values, has_paths)
    found = list(dict.fromkeys(found))
    if len(found) > 1:
        raise UsageError(
            f"{source} has {len(found)} columns of photos: {', '.join(map(repr, found))}. Say which: "
            f"{' or '.join(map(option, found))}."
        )
    return found[0] if found else None


def _by_values(values: dict[str, bytes | None], has_paths: bool) -> list[str]:
    """Return the columns of photos by their values in a row."""
    if found := [name for name, value in values.items() if value and image_format(value[:HEAD_BYTES]) is not None]:
        return found
    unclear = [name for name, value in values.items() if not value or b"\0" in value or len(value) > _LONGEST_PATH]
    named = [name for name in unclear if column_key(name) in _PHOTO_NAMES]
    return named or ([] if has_paths else unclear)


# --- by name and type -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BytesColumns:
    """Where the photos of a Parquet file are."""

    photo: str  # of bytes, or a struct with a field `bytes`
    is_struct: bool
    name: str | None = None  # of text: the photo's path, which names it

    def names(self) -> list[str]:
        """The columns to read; of a struct, its bytes alone."""
        photo = f"{self.photo}.bytes" if self.is_struct else self.photo
        return [photo, *([self.name] if self.name is not None else [])]


def bytes_columns(schema: Any, file: object, photo: str | None) -> BytesColumns | None:
    """Return what to read of the photos in this column; None: it is not of bytes.

    A column `path`, `file_name` or of a like name beside it names the photos.

    Raises:
        UsageError: several columns have its name.
    """
    kinds = [holds_bytes(column.type) for column in schema if column.name == photo]
    found = next((kind for kind in kinds if kind is not None), None)
    if photo is None or found is None:
        return None
    if len(kinds) > 1:
        raise UsageError(f"{file} has {len(kinds)} columns {photo!r}. Give them different names.")
    return BytesColumns(photo, found, name_column(text_columns(schema)))


def text_columns(schema: Iterable[Any]) -> list[str]:
    """Return the columns of text, of a dictionary too."""
    import pyarrow

    is_text = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    return [column.name for column in schema if any(each(value_type(column.type)) for each in is_text)]


def holds_bytes(kind: Any) -> bool | None:
    """Whether a type is a struct with bytes (True), is bytes itself (False), or neither (None)."""
    import pyarrow

    types = pyarrow.types
    kind = value_type(kind)
    if types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return True if at >= 0 and holds_bytes(kind.field(at).type) is False else None
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return False if is_bytes or types.is_binary_view(kind) else None


def value_type(kind: Any) -> Any:
    """Return a type, or of a dictionary that of its values."""
    import pyarrow

    return kind.value_type if pyarrow.types.is_dictionary(kind) else kind
