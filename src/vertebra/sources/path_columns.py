"""Which column of a table has the paths of photos, by its name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

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
