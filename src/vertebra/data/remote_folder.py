"""Reads class folders on a remote file system, such as `s3://bucket/photos/cat/1.jpg`, by the rules of local ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vertebra.sources.photo_place import StoredPhoto, parse_place
from vertebra.sources.tar_shards import has_photo_suffix
from vertebra.storage import Location

from .class_folders import read_tree
from .dataset import DataError, Dataset
from .folder_tree import Folder, FolderTree, examples
from .label_names import Ignored


def list_remote(root: Location) -> list[str]:
    """Return the files below a remote folder, relative to it.

    Raises:
        StorageError: it cannot be listed, or there is none.
    """
    prefix = f"{root.uri.rstrip('/')}/"
    return [entry.location.uri.removeprefix(prefix) for entry in root.list()]


def read_remote_folder(root: Location, *, ignore: Sequence[str] = (), training: bool = True) -> Dataset:
    """Read the photos of class folders as `read_folder` does.

    Photos are told by the endings of their names alone, as each file that is looked into is a request.
    """
    ignored = Ignored(ignore)
    return read_tree(RemoteTree(root, list_remote(root), ignored), ignored, root, training=training)


class RemoteTree(FolderTree):
    """The folders of a remote listing; paths in it are relative to the root."""

    def __init__(self, root: Location, names: Iterable[str], ignored: Ignored) -> None:
        super().__init__(Path(), ignored)
        self._location = root
        self._names = names
        self._odd: list[str] = []

    def read(self) -> Folder:
        """Read the root with all that is below it."""
        top = Folder(Path())
        folders: dict[tuple[str, ...], Folder] = {(): top}
        for name in sorted(self._names, key=lambda name: name.split("/")):
            *parts, base = name.split("/")
            if (inside := self._ignored_part(parts)) is not None:
                self.note_ignored(inside)
                continue
            if str(Path(name)) != name or parse_place(self._stored(name).file) != self._stored(name):
                self._odd.append(name)
            elif has_photo_suffix(base):
                self._folder(tuple(parts), folders).entries.append(Path(name))
            else:
                self._folder(tuple(parts), folders)
                self.others.append(name)
        if self._odd:
            raise DataError(
                f"{self._location} has names that no path has, such as {self._odd[0]!r}. Rename them, or list the "
                f"photos in a table: {examples(self._odd)}."
            )
        return top

    def _folder(self, parts: tuple[str, ...], folders: dict[tuple[str, ...], Folder]) -> Folder:
        if parts not in folders:
            self.folder_names.add(parts[-1])
            folders[parts] = Folder(Path(*parts))
            self._folder(parts[:-1], folders).entries.append(folders[parts])
        return folders[parts]

    def _ignored_part(self, parts: Sequence[str]) -> str | None:
        """Return the first folder above a file that is ignored."""
        for number, part in enumerate(parts, 1):
            if self._ignored.has(part, "/".join(parts[:number])):
                return "/".join(parts[:number])
        return None

    def _stored(self, name: str) -> StoredPhoto:
        return StoredPhoto(f"{self._location.uri.rstrip('/')}/{name}")

    def text(self, path: Path) -> str:
        """Format a path as a whole."""
        return str(self._location) if path == Path() else self._stored(path.as_posix()).file

    def place(self, path: Path) -> StoredPhoto:
        """Return where a photo is."""
        return self._stored(path.as_posix())
