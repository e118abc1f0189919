"""A file of each folder of a source, of a few folders that cover it: by them a machine tells that it sees them all."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 32  # files
_KEPT = 1_024  # folders that are kept while names come


class FolderSample:
    """The first file of each folder, as names come. A bucket counts as one folder, as it is seen as a whole.

    Where there are too many folders, those above them are kept, as long as these are several.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._files: dict[str, str] = {}  # by their folders
        self._depth: int | None = None  # parts of a folder's path that are told apart; None: all
        self._last: str | None = None
        self._is_full = False
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        """Add a file by its path or URI."""
        folder = name.rpartition("/")[0]
        if folder == self._last:
            return
        self._last = folder
        folder = _bucket(folder) if "://" in folder else folder
        if (key := _cut(folder, self._depth)) in self._files or self._is_full:
            return
        if len(self._files) == _KEPT:
            coarser = _coarser(self._files)
            if len(coarser) == 1 or len(coarser) == _KEPT:
                self._is_full = True
                return
            self._files = coarser
            self._depth = max(kept.count("/") for kept in coarser)
            key = _cut(folder, self._depth)
        self._files.setdefault(key, name)

    def files(self) -> list[str]:
        """Return at most `MOST` files: of all folders, or of those above, and then evenly of the others."""
        level = self._files
        while len(level) > MOST and len(coarser := _coarser(level)) > 1:
            level = coarser
        found = _evenly(list(level.values()), MOST)
        return found + _evenly([name for name in self._files.values() if name not in found], MOST - len(found))


def _evenly(names: list[str], most: int) -> list[str]:
    return names[:: -(-len(names) // most)] if names and most else []


def _coarser(files: dict[str, str]) -> dict[str, str]:
    """Return the files by the folders above the deepest."""
    depth = max(folder.count("/") for folder in files) - 1
    found: dict[str, str] = {}
    for folder, name in files.items():
        found.setdefault(_cut(folder, depth), name)
    return found


def _cut(folder: str, depth: int | None) -> str:
    """Return a folder's first parts: as many slashes as `depth`."""
    return folder if depth is None else "/".join(folder.split("/")[: depth + 1])


def _bucket(folder: str) -> str:
    scheme, _, path = folder.partition("://")
    return f"{scheme}:{path.partition('/')[0]}"
