"""A folder, a table or a name → labelled photos, looked through and split.

`open_dataset("photos/")` lists them, `look_through` decodes each once, and `audit` says what is wrong with them.
"""

from __future__ import annotations

from ._audit import Audit, audit
from ._dataset import DataError, Dataset, Photo, open_dataset
from ._facts import Album, Facts, look_through
from ._page import write_page
from ._split import Shares, assign_splits

__all__ = [
    "Album",
    "Audit",
    "DataError",
    "Dataset",
    "Facts",
    "Photo",
    "Shares",
    "assign_splits",
    "audit",
    "look_through",
    "open_dataset",
    "write_page",
]
