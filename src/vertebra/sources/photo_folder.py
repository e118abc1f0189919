"""The photos of a folder or prefix and below it, and what else lies there: shards, Parquet files, other kinds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vertebra.errors import UsageError, warn
from vertebra.file_kinds import ARCHIVE, Kind, describe_skipped
from vertebra.photo_files import SUFFIXES, skipped_kind, walk_photos
from vertebra.storage import Entry, Location

from .listing import Listed
from .tar_shards import OTHER_TARS, has_photo_suffix, is_hidden, is_tar

RESULTS_STATE = "_vertebra"  # beside the parts of a folder of results: what makes it one
_FEW = 3


@dataclass
class FolderContents:
    """What is found in a folder beside photos, as it is walked through."""

    folder: Location
    photo: str | None = None  # the first
    shards: list[Location] = field(default_factory=list)
    parquet: list[Location] = field(default_factory=list)
    results: set[str] = field(default_factory=set)  # folders of earlier predictions, which are no photos
    packed: list[str] = field(default_factory=list)  # tar archives that are not read
    skipped: dict[Kind, list[str]] = field(default_factory=dict)  # in a local folder
    suffixes: Counter[str] = field(default_factory=Counter)  # in a remote one

    def photos(self) -> Iterator[Listed]:
        """Yield the photos, by name.

        Raises:
            UsageError: there are shards as well.
            StorageError: the folder cannot be listed.
        """
        for photo in self._remote_photos() if self.folder.is_remote else self._local_photos():
            self.photo = self.photo or photo.name
            self._require_one_kind()
            yield photo
        self._require_one_kind()

    def _require_one_kind(self) -> None:
        if self.photo is not None and self.shards:
            raise UsageError(
                f"{self.folder} has photos, such as {self.photo}, and shards, such as {self.shards[0]}. Give one kind: "
                f"a folder that has only these, or the shards as '{self.folder}/*.tar'."
            )

    def leave_out_results(self) -> None:
        """Drop the parts of earlier predictions that lie in the folder: as tables they list its photos once more."""
        self.parquet = [file for file in self.parquet if str(file).rpartition("/")[0] not in self.results]

    def tell(self) -> None:
        """Warn of the files that are left out, once all are found."""
        for results in sorted(self.results):
            warn(f"{results} has the results of predictions, which are left out.")
        if self.parquet and (self.photo is not None or self.shards):
            kept = "photos" if self.photo is not None else "shards"
            some = ", ".join(map(str, self.parquet[:_FEW])) + (", …" if len(self.parquet) > _FEW else "")
            warn(f"{self.folder} has Parquet files beside its {kept}, which are left out: {some}.")
        for line in describe_skipped(self.skipped):
            warn(line)
        if self.packed:
            some = ", ".join(self.packed[:_FEW])
            warn(f"{len(self.packed):,} archives are left out, such as {some}. Unpack them, or make .tar or .tar.gz.")
        if self.suffixes:
            kinds = ", ".join(f"{n:,} {suffix or 'without a suffix'}" for suffix, n in self.suffixes.most_common(6))
            warn(f"{self.folder}: files that are no photos by their names are left out: {kinds}.")

    def missing(self) -> str:
        """Say that there is nothing to read, and what there is."""
        others = describe_skipped(self.skipped)
        if self.suffixes:
            others.append(f"There are other files: {', '.join(suffix or 'no suffix' for suffix in self.suffixes)}.")
        more = f" {' '.join(others)}" if others else ""
        return f"{self.folder}: there is no photo in this folder (looked for {', '.join(sorted(SUFFIXES))}).{more}"

    def _local_photos(self) -> Iterator[Listed]:
        for path, error in walk_photos(str(self.folder), self._note_entry):
            yield listed_file(path, error)

    def _note_entry(self, entry: os.DirEntry[str]) -> None:
        path = str(Path(entry.path))
        self._note_results(path)
        hidden = entry.name.startswith(".")
        if not hidden and self._note_container(Location(path)):
            return
        if kind := skipped_kind(entry):
            is_other_tar = kind is ARCHIVE and entry.name.lower().endswith(OTHER_TARS)
            self.packed.append(path) if is_other_tar else self.skipped.setdefault(kind, []).append(path)

    def _note_results(self, path: str) -> None:
        """Note a folder of results in the folder by the file that describes its run."""
        results = path.removesuffix(f"/{RESULTS_STATE}/run.json")
        if results != path and results != str(self.folder).rstrip("/"):
            self.results.add(results)

    def _note_container(self, location: Location) -> bool:
        """Note a shard or a Parquet file; whether it is one."""
        if is_tar(location.name):
            self.shards.append(location)
        elif location.suffix == ".parquet":
            # Spark and other writers of folders keep files of their own in folders named so.
            if not any(part.startswith("_") for part in self._inside(location).split("/")[:-1]):
                self.parquet.append(location)
        else:
            return False
        return True

    def _inside(self, location: Location) -> str:
        """Return the path of a file within the folder."""
        folder = str(self.folder).rstrip("/") if self.folder.is_remote else str(self.folder.path)
        return str(location).removeprefix(folder)

    def _remote_photos(self) -> Iterator[Listed]:
        for entry in self.folder.list():
            inside = self._inside(entry.location)
            self._note_results(str(entry.location))
            if is_hidden(inside) or self._note_container(entry.location):
                continue
            if has_photo_suffix(inside):
                yield listed_entry(entry)
            elif inside.lower().endswith(OTHER_TARS):
                self.packed.append(str(entry.location))
            else:
                self.suffixes[entry.location.suffix] += 1


def listed_file(path: str, error: str | None = None) -> Listed:
    """Return a local photo with its size and the time of its last change."""
    if error is None:
        try:
            status = os.stat(path)  # noqa: PTH116 - it may be no path
            return Listed(path, status.st_size, str(status.st_mtime_ns))
        except (OSError, ValueError):
            pass  # said when it is read
    return Listed(path, error=error)


def listed_entry(entry: Entry) -> Listed:
    """Return a remote photo with its size and the time of its last change."""
    return Listed(str(entry.location), entry.size, str(entry.mtime_ns))
