"""Walks a folder: its photos, subfolders, other files, links, and what is skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vertebra.file_kinds import Kind, describe_skipped
from vertebra.photo_files import (
    FolderPath,
    SkippedFolderError,
    is_broken_link,
    is_folder,
    is_hidden_or_system,
    is_macos_metadata,
    is_photo,
    list_entries,
    list_folder,
    skipped_kind,
)
from vertebra.sources.photo_place import PhotoPlace

from .dataset import DataError
from .label_names import Ignored

_IGNORED = "Ignored, as asked"
_HIDDEN = "Skipped, as hidden or made by a system"
_LINKS = "Links within this folder, so their photos count more than once"


@dataclass
class Folder:
    """A folder with its entries, sorted by name."""

    path: Path
    entries: list[Path | Folder] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @cached_property
    def folders(self) -> list[Folder]:
        """Its direct subfolders, filled or not."""
        return [entry for entry in self.entries if isinstance(entry, Folder)]

    @cached_property
    def photos(self) -> list[Path]:
        """The photos directly in it."""
        return [entry for entry in self.entries if isinstance(entry, Path)]

    @cached_property
    def filled(self) -> list[Folder]:
        """Its direct subfolders with photos at any depth."""
        return [folder for folder in self.folders if folder.is_filled]

    @property
    def is_filled(self) -> bool:
        """Whether it holds photos at any depth."""
        return bool(self.photos or self.filled)

    def walk(self) -> Iterator[Path]:
        """Iterate over all photos at any depth."""
        for entry in self.entries:
            if isinstance(entry, Folder):
                yield from entry.walk()
            else:
                yield entry


class FolderTree:
    """Reads a folder recursively in sorted order, follows links except in a cycle, and records what it skips."""

    def __init__(self, root: Path, ignored: Ignored) -> None:
        self.root = root
        self.others: list[str] = []
        self.unreadable: list[str] = []
        self.folder_names: set[str] = set()
        self._real_root = os.path.realpath(root)
        self._ignored = ignored
        self._skipped: dict[str, list[str]] = {_IGNORED: [], _HIDDEN: [], _LINKS: []}
        self._kinds: dict[Kind, list[str]] = {}  # of files that are no photos and that the notes name

    def read(self) -> Folder:
        """Read the root with all that is below it."""
        try:
            list_entries(self.root)
        except OSError as error:
            raise DataError(f"{self.root} cannot be listed ({error.strerror or error}).") from error
        return self._read_folder(self.root, "", FolderPath(self._real_root))

    def shown(self, path: Path | str) -> str:
        """Format a path relative to the root."""
        return str(Path(path).relative_to(self.root))

    def text(self, path: Path) -> str:
        """Format a path as a whole."""
        return str(path)

    def place(self, path: Path) -> PhotoPlace:
        """Return where a photo is."""
        return path

    def note_ignored(self, shown: str) -> None:
        """Add a folder to those that are ignored as asked."""
        if shown not in self._skipped[_IGNORED]:
            self._skipped[_IGNORED].append(shown)

    def notes(self) -> list[str]:
        """Return sentences on what was skipped and which links duplicate photos."""
        notes = [f"{what}: {examples(paths)}." for what, paths in self._skipped.items() if paths]
        return notes + describe_skipped(self._kinds, self.root)

    def _read_folder(self, path: Path, shown: str, folder_path: FolderPath) -> Folder:
        found = Folder(path)
        try:
            inside, below = list_folder(str(path), folder_path)
        except SkippedFolderError as error:
            self.unreadable.append(f"{shown} {error}")
            return found
        for entry in inside:
            self._add_entry(entry, found, f"{shown}{os.sep}{entry.name}" if shown else entry.name, below)
        return found

    def _add_entry(self, entry: os.DirEntry[str], to: Folder, shown: str, folder_path: FolderPath) -> None:
        if is_folder(entry) and self._ignored.has(entry.name, shown.replace(os.sep, "/")):
            self.note_ignored(shown)
        elif is_hidden_or_system(entry):
            if kind := skipped_kind(entry):
                self._kinds.setdefault(kind, []).append(shown)
            elif not is_macos_metadata(entry.name) and (is_folder(entry) or is_photo(entry)):
                self._skipped[_HIDDEN].append(shown)
        elif is_folder(entry):
            self.folder_names.add(entry.name)
            folder = self._read_folder(Path(entry.path), shown, folder_path)
            to.entries.append(folder)
            if folder.entries:
                self._note_link(entry, shown)
        elif is_photo(entry):
            to.entries.append(Path(entry.path))
            self._note_link(entry, shown)
        elif is_broken_link(entry):
            self.unreadable.append(f"{shown} is a link to nothing")
        else:
            self.others.append(shown)
            if kind := skipped_kind(entry):
                self._kinds.setdefault(kind, []).append(shown)

    def _note_link(self, entry: os.DirEntry[str], shown: str) -> None:
        if entry.is_symlink() and not is_broken_link(entry):
            target = os.path.realpath(entry.path)
            if Path(self._real_root) in Path(target).parents:
                self._skipped[_LINKS].append(f"{shown} → {os.path.relpath(target, self._real_root)}")


def listed(names: Sequence[str]) -> str:
    """Format as `"a, b and c"`, or the first five of many."""
    if len(names) > 6:
        return f"{', '.join(names[:5])} and {len(names) - 5:,} others"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def examples(names: Sequence[str], max_names: int = 3) -> str:
    """Format as `"9, such as a, b and c"`, or all names if they are few."""
    return listed(names) if len(names) <= max_names else f"{len(names):,}, such as {listed(names[:max_names])}"
