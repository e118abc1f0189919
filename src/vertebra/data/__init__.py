"""A folder, a table or a name → labelled photos, looked through and split.

`open_dataset("photos/")` lists them, `look_through` decodes each once, and `audit` says what is wrong with them.
"""

from __future__ import annotations

from .audit_page import findings, write_page
from .audit_result import Audit
from .data_audit import audit
from .dataset import DataError, Dataset, Photo
from .dataset_checks import check_labels, check_seen, usable_part
from .duplicates import Duplicates, find_duplicates
from .image_info import Album, Facts, look_through, read_file
from .imagenet_labels import INDEX, check_indices, match_imagenet
from .label_names import match_names
from .read import check_source, open_dataset
from .split import Shares, assign_folds, assign_splits
from .sqlite_cache import Shelf
from .table_file import is_table

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
