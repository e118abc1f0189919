"""`FileState`: what tells that a file has changed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileState:
    """What tells that a file has changed."""

    size: int  # bytes
    version: str  # the ETag where the service has one, else the modification time in ns
