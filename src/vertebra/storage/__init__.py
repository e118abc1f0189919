"""Files and folders by path or URI: on this machine, in S3 and on what else pyarrow's file systems open."""

from __future__ import annotations

from .errors import StorageError
from .location import Entry, FileState, Location

__all__ = ["Entry", "FileState", "Location", "StorageError"]
