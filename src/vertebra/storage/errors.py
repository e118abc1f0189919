"""What a file system says when it fails → one line for people: the place, what is wrong, what to do."""

from __future__ import annotations

import errno
import os
import re

from vertebra.errors import VertebraError, first_line


class StorageError(VertebraError):
    """A file or folder cannot be listed, read or written."""

    def __init__(self, message: str, is_missing: bool = False, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing  # there is no such file, folder or bucket
        self.is_full = is_full  # no room is left


def storage_error(error: Exception, uri: str, action: str) -> StorageError:
    """Return the error for `uri` that could not be read, listed or written, which `action` says."""
    number = getattr(error, "errno", None)
    text = str(error)
    what = f"{uri} cannot be {action}"
    if isinstance(error, FileNotFoundError) or number == errno.ENOENT or "NO_SUCH_BUCKET" in text:
        if "bucket" in text.lower() and ("not found" in text.lower() or "NO_SUCH_BUCKET" in text):
            return StorageError(f"{what}: there is no such bucket. Check its name and region.", is_missing=True)
        return StorageError(f"{what}: there is no such file or folder.", is_missing=True)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{what}: the disk is full. Make room and run the same command again.", is_full=True)
    if "ACCESS_DENIED" in text or re.search(r"\b403\b", text):
        return StorageError(
            f"{what}: access is denied (403). Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and that "
            "they may read (and write) this bucket."
        )
    reason = os.strerror(number) if isinstance(number, int) and not text else first_line(error)
    return StorageError(f"{what} ({reason}).")
