"""A folder, a table or a name → labelled photos, looked through and split.

`open_dataset("photos/")` lists them, `look_through` decodes each once, and `audit` says what is wrong with them.
"""

from __future__ import annotations

from ._audit import Audit, audit
from ._dataset import (
    DataError,
    Dataset,
    Photo,
    check_labels,
    check_seen,
    check_source,
    is_table,
    open_dataset,
    usable_part,
)
from ._duplicates import Duplicates, find_duplicates
from ._facts import Album, Facts, look_through, read_file
from ._imagenet import INDEX, check_indices, match_imagenet
from ._labels import match_names
from ._page import findings, write_page
from ._shelf import Shelf
from ._split import Shares, assign_folds, assign_splits

__all__ = [
    "INDEX",
    "Album",
    "Audit",
    "DataError",
    "Dataset",
    "Duplicates",
    "Facts",
    "Photo",
    "Shares",
    "Shelf",
    "assign_folds",
    "assign_splits",
    "audit",
    "check_indices",
    "check_labels",
    "check_seen",
    "check_source",
    "find_duplicates",
    "findings",
    "is_table",
    "look_through",
    "match_imagenet",
    "match_names",
    "open_dataset",
    "read_file",
    "usable_part",
    "write_page",
]
