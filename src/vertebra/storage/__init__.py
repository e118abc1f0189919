"""Files and folders by path or URI: on this machine, in S3 and on what else pyarrow's file systems open."""

from __future__ import annotations

from .errors import AddressError, StorageError
from .file_state import FileState
from .local_cache import fetch_verified, local_copy
from .location import Entry, Location

__all__ = ["AddressError", "Entry", "FileState", "Location", "StorageError", "fetch_verified", "local_copy"]
