"""Which column of a table has the paths of photos, by its name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from vertebra.errors import DataError, UsageError, suggest

# Names of columns, compared without case, spaces and punctuation (R writes dots for spaces); the first is documented.
# Those of the second row apply only if the table has none of the first: numbers of photos and classes are mostly beside
# their names.
PATHS = (
    (
        *("path", "file", "filename", "filepath", "paths", "files", "filenames", "filepaths", "fname", "fullpath"),
        *("image", "imagefile", "imagefilename", "imagefilepath", "imagename", "imagepath", "images", "imagepaths"),
        *("img", "imgfile", "imgname", "imgpath", "photo", "photofile", "photoname", "photopath", "photos"),
    ),
    ("imageid", "imgid", "photoid", "fileid", "idcode", "id"),
)


def column_key(name: str) -> str:
    """Return a column's name without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", name).casefold())


def name_column(names: Sequence[str]) -> str | None:
    """Return the only column whose name is that of a path; None: there is none, or several."""
    found = [name for name in names if column_key(name) in PATHS[0]]
    return found[0] if len(found) == 1 else None


def choose_path_column(names: Sequence[str], file: str, given: str | None = None) -> str:
    """Return the column with the paths: `given`, or the only one of a known name.

    Raises:
        UsageError: the table has no column `given`, or several.
        DataError: no column has a known name, or several have.
    """
    there = f"it has {', '.join(name or 'one without a name' for name in names) or 'no columns'}"
    if given is not None:
        found = [name for name in names if name == given] or [n for n in names if column_key(n) == column_key(given)]
        if not found:
            hint = suggest(given, names)
            raise UsageError(f"{file} has no column {given!r} ({there}), which --path-column asks for. {hint}".rstrip())
    else:
        found = next(filter(None, ([n for n in names if column_key(n) in known] for known in PATHS)), [])
        if not found:
            raise DataError(
                f"{file} has no column 'path' ({there}). The first line names the columns; if one has the paths of the "
                "photos, give --path-column NAME."
            )
    if len(found) > 1:
        same = len(set(found)) == 1
        remedy = "Give them different names." if same else f"Say which has the paths: --path-column {found[0]}."
        raise DataError(f"{file} has {len(found)} columns that may be the path: {', '.join(found)}. {remedy}")
    return found[0]
