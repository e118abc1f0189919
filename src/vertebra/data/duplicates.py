"""Photos that are there more than once: the same file, or the same picture mirrored, rotated, cropped or re-encoded.

What is not found: a picture rotated by other angles than 90°, 180° and 270°, a part with less than 7/8 of a side, and
one with a border around it.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset
from .image_alignment import (
    MIN_CONTRAST,
    ROUGH_RATIO,
    Floats,
    Placement,
    coarse_correlation,
    compare,
    same_proportions,
    smoothed,
)
from .image_info import LOOK_SIZE, THUMBNAIL_SIZE, ImageInfo, ImageInfoCache, Thumbnail
from .perceptual_hash import WINDOWS, Candidates, Index, candidates, greys_of

# Of pictures with fewer pixels, those of different things agree as well as crops and mirror images do (digits of
# 8 × 8, icons): only the same picture as it stands is looked for.
MIN_SIDE = 32
IDENTICAL = "identical file"

_BATCH = 64  # pairs of thumbnails compared at once: 10 MB
_MIN_COARSE = 0.77  # correlation of 16 × 16 greys below which thumbnails are not compared
_MOVES = 8  # how often a photo may be compared with another original of its group
_REMEMBERED = 1 << 21  # pairs
_BLOCK = 1024  # photos or pairs whose coarse greys are compared at once: 15 MB
_ALL = np.array([0, 0, 1, 1], np.float32)  # the box of a whole photo
_NONE = array("i")
_COST = 4  # of comparing thumbnails, where that of coarse greys is 1


@dataclass(frozen=True)
class Duplicates:
    """Photos of the same picture: the one that shows most of it first, then what was done to get each other."""

    members: tuple[int, ...]  # places in the facts
    kinds: tuple[str, ...]  # of each; that of the first is empty


def find_duplicates(
    dataset: Dataset, facts: Sequence[ImageInfo], album: ImageInfoCache | None = None
) -> list[Duplicates]:
    """Groups of photos of a data set that show the same picture; `facts` are what `read_image_info` returns."""
    album = album or ImageInfoCache()
    return group_duplicates(facts, lambda place: album.thumbnail(facts[place].sha256, dataset.photos[place].path))


def group_duplicates(facts: Sequence[ImageInfo], thumbnail: Callable[[int], Thumbnail | None]) -> list[Duplicates]:
    """Groups of photos that show the same picture; photos that cannot be used are left out.

    Each member of a group agrees with its first: what is alike to another member alone does not join. `thumbnail` gives
    that of a photo by its place in `facts`; where it is None, only the photo's bytes are compared.
    """
    copies: dict[int, list[int]] = defaultdict(list)  # first photo of a file -> others with the same bytes
    first_of: dict[str, int] = {}
    for place, fact in enumerate(facts):
        if fact.broken is None and (first := first_of.setdefault(fact.sha256, place)) != place:
            copies[first].append(place)
    # Sorted, so that neither what the files are called nor the order in which they lie changes anything.
    files = np.array([first_of[digest] for digest in sorted(first_of)], np.int32)
    search = _Search(facts, files, thumbnail)
    search.run()
    found = []
    for first, grouped in search.members.items():
        ranked = np.array(grouped)[np.argsort(files[np.array(grouped)])]
        members: list[int] = []
        kinds: list[str] = []
        places = [int(files[first]), *files[ranked].tolist()]
        for place, kind in zip(places, ["", *search.placement(ranked).kinds()], strict=True):
            again = copies.pop(place, [])
            members += [place, *again]
            kinds += [kind, *[kind or IDENTICAL] * len(again)]
        found.append(Duplicates(tuple(members), tuple(kinds)))
    found += [Duplicates((first, *again), ("", *[IDENTICAL] * len(again))) for first, again in copies.items()]
    return sorted(found, key=lambda group: min(group.members))


class _Search:
    """Groups of photos around an original each, which grow pair by pair."""

    def __init__(
        self, facts: Sequence[ImageInfo], files: NDArray[np.int32], thumbnail: Callable[[int], Thumbnail | None]
    ) -> None:
        count = len(files)
        self._files = files
        self._look = lambda number: facts[int(files[number])].look  # the coarse greys of a file
        self._sizes = np.empty((count, 2), np.float32)
        for number, place in enumerate(files.tolist()):
            self._sizes[number] = facts[place].width, facts[place].height
        self._thumbnail = thumbnail
        self._smoothed = lru_cache(512)(self._load)
        self.members: dict[int, array[int]] = {}  # of each original, all as numbers of files
        self._original = np.arange(count, dtype=np.int32)  # itself, or the original of its group
        self._orientation = np.zeros(count, np.int8)  # in its original
        self._boxes = np.tile(_ALL, (count, 1))
        self._active = np.zeros(count, bool)
        self._moves = np.zeros(count, np.uint8)
        # So much work is spent on each photo's likes that the search ends in time, however many they are.
        self._effort = np.full(count, np.clip(2_000_000 // max(count, 1), 8, 48), np.int16)
        self._tried = np.zeros(_REMEMBERED, np.uint32)

    def run(self) -> None:
        """Find the groups."""
        every = np.arange(len(self._files), dtype=np.int32)
        kept = np.zeros(len(every), bool)
        for start in range(0, len(every), _BLOCK):
            part = slice(start, start + _BLOCK)
            kept[part] = greys_of(self._look, every[part]).std(axis=(1, 2)) >= MIN_CONTRAST
        photos = every[kept]
        if len(photos) < 2:
            return
        self._active[photos] = True
        index = Index.of(self._look, photos, self._sizes[photos].min(axis=1) >= MIN_SIDE)
        for found in candidates(index, self._active):
            self._take(found)

    def placement(self, places: NDArray[Any]) -> Placement:
        return Placement(self._orientation[places].astype(np.int64), self._boxes[places].astype(np.float64))

    def _take(self, found: Candidates) -> None:
        """Compare candidates, the most similar first, and join what is the same."""
        found = found[self._worth(found)]
        likeness = np.zeros(len(found))
        for start in range(0, len(found), _BLOCK):
            part = slice(start, start + _BLOCK)
            likeness[part] = self._coarse(found[part])
        hopeful = likeness >= _MIN_COARSE
        np.subtract.at(self._effort, found["copy"][~hopeful], 1)
        # A symmetric picture agrees in several orientations: as it stands is the simplest.
        preference = likeness + 0.02 * (found["orientation"] == 0) + 0.02 * (found["window"] == 0)
        order = np.argsort(-preference, kind="stable")
        waiting = found[order[hopeful[order]]]
        while len(waiting):
            waiting = np.concatenate([self._compare(waiting[:_BATCH]), waiting[_BATCH:]])

    def _worth(self, found: Candidates) -> NDArray[Any]:
        """Which candidates are compared: those that were not before, of photos that were not compared too often."""
        pair = found["copy"] * np.int64(1_000_003) + found["original"]
        code = (pair * 8 + found["orientation"]) * 32 + found["window"]
        code = code.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        _, once = np.unique(code, return_index=True)
        once.sort()
        slot = (code[once] >> np.uint64(40)).astype(np.int64) % _REMEMBERED
        tag = (code[once] >> np.uint64(8)).astype(np.uint32) | np.uint32(1)
        new = self._tried[slot] != tag
        self._tried[slot] = tag
        once = once[new]
        copy, original = found["copy"][once], found["original"][once]
        together = self._original[copy] == self._original[original]
        return np.asarray(once[self._active[copy] & (self._effort[copy] > 0) & ~together])

    def _coarse(self, found: Candidates) -> NDArray[np.float64]:
        """(N,) the correlation of 16 × 16 greys; 0 where the proportions differ."""
        guess = _guess(found)
        likeness = np.zeros(len(found))
        sizes = self._sizes[found["original"]], self._sizes[found["copy"]]
        places = np.nonzero(same_proportions(*sizes, guess, ROUGH_RATIO))[0]
        originals, copies = (greys_of(self._look, photos[places]) for photos in (found["original"], found["copy"]))
        likeness[places] = coarse_correlation(originals, copies, guess.at(places))
        return likeness

    def _load(self, place: int) -> Floats:
        greys = self._thumbnail(int(self._files[place]))
        # A flat one agrees with none.
        return smoothed(np.zeros((THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8) if greys is None else greys)

    def _compare(self, batch: Candidates) -> Candidates:
        """Join the pairs of a batch that are the same; those whose original has joined another are given back."""
        copies, leaders = batch["copy"], self._original[batch["original"]]
        open_ = (self._original[copies] == copies) & (leaders != copies) & (self._effort[copies] > 0)
        batch, leaders = batch[open_], leaders[open_]
        guess = _guess(batch).then(self.placement(batch["original"]))
        same, found = self._same(leaders, batch["copy"], guess)
        np.subtract.at(self._effort, batch["copy"][~same], _COST)
        again = []
        for place in np.nonzero(same)[0].tolist():
            copy, leader = int(batch["copy"][place]), int(leaders[place])
            if self._original[copy] != copy:
                continue
            if self._original[leader] != leader:
                again.append(place)
                continue
            self._join(copy, leader, found.at(np.array([place])))
        return batch[again]

    def _same(
        self, originals: NDArray[Any], copies: NDArray[Any], guess: Placement
    ) -> tuple[NDArray[np.bool_], Placement]:
        """Whether each copy shows the same as its original or a part of it, and where it lies."""
        if not len(copies):
            return np.zeros(0, bool), guess
        one, other = (np.stack([self._smoothed(place) for place in places.tolist()]) for places in (originals, copies))
        same, found = compare(one, other, guess, movable=self._sizes[copies].min(axis=1) >= MIN_SIDE)
        return same & same_proportions(self._sizes[originals], self._sizes[copies], found), found

    def _join(self, copy: int, original: int, placement: Placement) -> None:
        """Put a photo, and those of which it was the original, into the group of another."""
        # Where neither is a part of the other: the one of the larger group, then the larger photo, then either.
        copy_rank, original_rank = (
            (len(self.members.get(photo, ())), float(self._sizes[photo].prod()), -photo) for photo in (copy, original)
        )
        if not placement.cropped[0] and copy_rank > original_rank:
            copy, original, placement = original, copy, placement.inverse()
        moved = self.members.pop(copy, _NONE)
        group = self.members.setdefault(original, array("i"))
        self._put(copy, original, placement.at(np.array([0])))
        group.append(copy)
        for start in range(0, len(moved), _BATCH):
            places = np.array(moved[start : start + _BATCH])
            guess = self.placement(places).then(placement.at(np.zeros(len(places), np.int64)))
            same, found = self._same(np.full(len(places), original), places, guess)
            self._moves[places] += 1
            for k, place in enumerate(places.tolist()):
                if same[k] and self._moves[place] < _MOVES:
                    self._put(place, original, found.at(np.array([k])))
                    group.append(place)
                else:
                    self._original[place], self._active[place] = place, True
                    self._orientation[place], self._boxes[place] = 0, _ALL

    def _put(self, copy: int, original: int, placement: Placement) -> None:
        self._original[copy], self._active[copy] = original, False
        self._orientation[copy], self._boxes[copy] = placement.orientation[0], placement.boxes[0]


def _guess(found: Candidates) -> Placement:
    """Where the copies would lie, by their hashes."""
    x, y, width, height = np.array(WINDOWS, np.float64)[found["window"]].T / LOOK_SIZE
    return Placement(found["orientation"], np.stack([x, y, x + width, y + height], axis=1))
