"""Where a photo is: a local file's `Path`, or a `StoredPhoto`, which is read through `Location`.

Both have what the rest of the package asks of a photo's place: `str`, an order, `name`, `absolute`, `relative_to` and
`read_bytes`. The text of a `StoredPhoto` gives the same one again (`parse_place`), so tables can list them.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from vertebra.errors import UsageError
from vertebra.storage import Location, StorageError
from vertebra.storage.kept_files import read_kept

from .shard_reader import read_member

_PATIENCE = 60.0  # seconds after which storage that is away is waited for no longer
# A shard's or a Parquet file's name, and behind :: the name in it.
_MEMBER = re.compile(r"(.*?\.(?:tar|tar\.gz|tgz|parquet))::(.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """A photo that is no local file: `s3://bucket/cat/1.jpg`, `train-000.tar::cat/1.jpg` or `train.parquet::17`.

    It is small, as data sets hold millions of them; photos of one file share the text of its place.
    """

    file: str  # the path or URI of the photo's file, or of the shard or Parquet file that holds it
    member: str = ""  # the name in a shard, or the row from 0 in a Parquet file; "" for a file of its own

    def __str__(self) -> str:
        return f"{self.file}::{self.member}" if self.member else self.file

    @property
    def name(self) -> str:
        """The last part, for people."""
        return (self.member or self.file).rpartition("/")[2]

    def absolute(self) -> StoredPhoto:
        """Return the same place, independent of the working folder."""
        location = Location(self.file)
        return self if location.is_remote else StoredPhoto(str(location.path.absolute()), self.member)

    def relative_to(self, root: str) -> str:
        """Return the text relative to a folder; a ValueError if it is not below it."""
        inner = str(self).removeprefix(f"{root.rstrip('/')}/")
        if len(inner) == len(str(self)):
            raise ValueError(f"{self} is not in {root}")
        return inner

    def read_bytes(self) -> bytes:
        """Return the content of the photo's file; a storage that is away for a minute is waited for.

        Raises:
            StorageError: it is missing, or its storage cannot be reached.
            ImageError: the shard has no such photo, or is damaged there.
        """
        started, wait = time.monotonic(), 1.0
        while True:
            try:
                return read_member(self.file, self.member) if self.member else read_kept(Location(self.file))
            except StorageError as error:
                if not error.is_transient or time.monotonic() - started > _PATIENCE:
                    raise
            time.sleep(wait)
            wait = min(2 * wait, 8.0)

    def __lt__(self, other: object) -> bool:
        if isinstance(other, Path):
            return False  # local files come first
        return self._key() < other._key() if isinstance(other, StoredPhoto) else NotImplemented

    def __gt__(self, other: object) -> bool:
        if isinstance(other, Path):
            return True
        return self._key() > other._key() if isinstance(other, StoredPhoto) else NotImplemented

    def _key(self) -> tuple[str, int, str]:
        return self.file, len(self.member) if self.member.isdigit() else 0, self.member  # rows by their number


PhotoPlace: TypeAlias = Path | StoredPhoto


def normalized(place: PhotoPlace) -> PhotoPlace:
    """Return the place without `.` and `..` in a local file's path, as two paths of one file are equal then."""
    return Path(os.path.normpath(place)) if isinstance(place, Path) else place


def file_of(place: PhotoPlace) -> str:
    """Return the path or URI of the file that a photo is in."""
    return place.file if isinstance(place, StoredPhoto) else str(place)


def parse_place(text: str) -> PhotoPlace:
    """Return the place that a text stands for, as `str` writes one.

    Raises:
        UsageError: a file and a photo in a shard are both written so.
    """
    if Location(text).is_remote:
        found = _MEMBER.fullmatch(text)
        return StoredPhoto(found[1], found[2]) if found else StoredPhoto(text)
    found = _MEMBER.fullmatch(text)
    if found is None or not os.path.isfile(found[1]):  # noqa: PTH113 - a text that may be no path
        return Path(text)
    if os.path.lexists(text):
        raise UsageError(f"{text} is a file, and may be {found[2]} in {found[1]} as well. Rename the file.")
    return StoredPhoto(found[1], found[2])
