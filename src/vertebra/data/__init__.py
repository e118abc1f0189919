"""A folder, a table or a name → labelled photos, audited and split.

`open_dataset("photos/")` lists them, `read_image_info` decodes each once, and `audit` says what is wrong with them.
"""

from __future__ import annotations

from vertebra.sources.table_file import is_table

from .audit_page import findings, write_page
from .audit_result import Audit
from .data_audit import audit
from .dataset import DataError, Dataset, Photo
from .dataset_checks import require_classes, require_seen, select_usable
from .duplicates import DuplicateGroup, find_duplicates
from .image_info import ImageInfo, ImageInfoCache, read_file, read_image_info
from .imagenet_labels import INDEX, class_index_notes, match_imagenet
from .label_names import match_names
from .name_or_folder import is_public_name
from .read import open_dataset, resolve_source
from .split import Shares, assign_folds, assign_splits
from .sqlite_cache import SqliteCache

# Deprecated aliases, for one version.
Album, Facts, Shelf, look_through = ImageInfoCache, ImageInfo, SqliteCache, read_image_info
Duplicates = DuplicateGroup

__all__ = [
    "INDEX",
    "Album",
    "Audit",
    "DataError",
    "Dataset",
    "DuplicateGroup",
    "Duplicates",
    "Facts",
    "ImageInfo",
    "ImageInfoCache",
    "Photo",
    "Shares",
    "Shelf",
    "SqliteCache",
    "assign_folds",
    "assign_splits",
    "audit",
    "class_index_notes",
    "find_duplicates",
    "findings",
    "is_public_name",
    "is_table",
    "look_through",
    "match_imagenet",
    "match_names",
    "open_dataset",
    "read_file",
    "read_image_info",
    "require_classes",
    "require_seen",
    "resolve_source",
    "select_usable",
    "write_page",
]
