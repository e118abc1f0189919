"""Finds duplicates (the same bytes) and near-duplicates (the same picture mirrored, rotated, cropped or re-encoded).

They are found here, for `audit`, `train` and `evaluate`; `split` keeps each group in one split and in one fold.
Only `Audit.check` (--strict) refuses them, if labels or splits differ; `train/leakage` notes the accuracy without them.
Not found: rotations other than by 90°, 180° and 270°, crops to less than 7/8 of a side, added borders.
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
from .image_info import COARSE_SIZE, THUMBNAIL_SIZE, ImageInfo, ImageInfoCache, Thumbnail
from .perceptual_hash import WINDOWS, Candidates, Index, candidates, greys_of

# Different pictures with fewer pixels (digits of 8 × 8, icons) match as well as crops and mirror images do: for these,
# only the same orientation and crop is tried.
MIN_SIDE = 32
IDENTICAL = "identical file"

_BATCH_SIZE = 64  # pairs of thumbnails compared at once: 10 MB
_MIN_COARSE_CORRELATION = 0.77  # below it, thumbnails are not compared
_MAX_MOVES = 8  # comparisons of a photo with new originals of its group
_SEEN_SLOTS = 1 << 21  # of the hash table of compared pairs
_BLOCK_SIZE = 1024  # photos or pairs whose coarse greys are compared at once: 15 MB
_WHOLE_BOX = np.array([0, 0, 1, 1], np.float32)
_NO_FILES = array("i")
_THUMBNAIL_COST = 4  # of comparing thumbnails, relative to coarse greys


@dataclass(frozen=True)
class DuplicateGroup:
    """Photos of the same picture: first the original, which shows most of it, then its duplicates."""

    members: tuple[int, ...]  # indices of the photos
    kinds: tuple[str, ...]  # how each differs from the original, "mirrored, cropped"; "" for the original


def find_duplicates(
    dataset: Dataset, infos: Sequence[ImageInfo], cache: ImageInfoCache | None = None
) -> list[DuplicateGroup]:
    """Find the duplicate groups of a data set; `infos` is the result of `read_image_info`."""
    cache = cache or ImageInfoCache()
    return group_duplicates(infos, lambda index: cache.thumbnail(infos[index].sha256, dataset.photos[index].path))


def group_duplicates(infos: Sequence[ImageInfo], thumbnail: Callable[[int], Thumbnail | None]) -> list[DuplicateGroup]:
    """Find the duplicate groups among usable photos.

    Each member matches the original of its group; matching another member is not enough. `thumbnail` returns the
    thumbnail of the photo of an index, or None, and then only the photo's bytes are compared.
    """
    identical: dict[int, list[int]] = defaultdict(list)  # first photo of a file -> others with the same bytes
    first_of: dict[str, int] = {}
    for index, info in enumerate(infos):
        if info.broken is None and (first := first_of.setdefault(info.sha256, index)) != index:
            identical[first].append(index)
    # Sorted, so that the result depends neither on the names of the files nor on their order.
    files = np.array([first_of[digest] for digest in sorted(first_of)], np.int32)
    search = _Search(infos, files, thumbnail)
    search.run()
    groups = []
    for original, grouped in search.members.items():
        ranked = np.array(grouped)[np.argsort(files[np.array(grouped)])]
        members: list[int] = []
        kinds: list[str] = []
        indices = [int(files[original]), *files[ranked].tolist()]
        for index, kind in zip(indices, ["", *search.placement(ranked).kinds()], strict=True):
            again = identical.pop(index, [])
            members += [index, *again]
            kinds += [kind, *[kind or IDENTICAL] * len(again)]
        groups.append(DuplicateGroup(tuple(members), tuple(kinds)))
    groups += [DuplicateGroup((first, *again), ("", *[IDENTICAL] * len(again))) for first, again in identical.items()]
    return sorted(groups, key=lambda group: min(group.members))


class _Search:
    """Greedy search: each match adds a photo, with its own duplicates, to the group of an original."""

    def __init__(
        self, infos: Sequence[ImageInfo], files: NDArray[np.int32], thumbnail: Callable[[int], Thumbnail | None]
    ) -> None:
        count = len(files)
        self._files = files
        self._coarse_greys = lambda file: infos[int(files[file])].coarse_greys
        self._sizes = np.empty((count, 2), np.float32)
        for file, index in enumerate(files.tolist()):
            self._sizes[file] = infos[index].width, infos[index].height
        self._thumbnail = thumbnail
        self._smoothed = lru_cache(512)(self._load_smoothed)
        self.members: dict[int, array[int]] = {}  # original -> its duplicates, as indices of `files` like all below
        self._original = np.arange(count, dtype=np.int32)  # itself, or the original of its group
        self._orientation = np.zeros(count, np.int8)  # relative to its original, as is the box
        self._boxes = np.tile(_WHOLE_BOX, (count, 1))
        self._active = np.zeros(count, bool)
        self._moves = np.zeros(count, np.uint8)
        # Failed comparisons left for each photo: they bound the time for any number of similar photos.
        self._budget = np.full(count, np.clip(2_000_000 // max(count, 1), 8, 48), np.int16)
        self._seen = np.zeros(_SEEN_SLOTS, np.uint32)

    def run(self) -> None:
        every = np.arange(len(self._files), dtype=np.int32)
        kept = np.zeros(len(every), bool)
        for start in range(0, len(every), _BLOCK_SIZE):
            part = slice(start, start + _BLOCK_SIZE)
            kept[part] = greys_of(self._coarse_greys, every[part]).std(axis=(1, 2)) >= MIN_CONTRAST
        photos = every[kept]
        if len(photos) < 2:
            return
        self._active[photos] = True
        index = Index.of(self._coarse_greys, photos, self._sizes[photos].min(axis=1) >= MIN_SIDE)
        for found in candidates(index, self._active):
            self._compare_candidates(found)

    def placement(self, files: NDArray[Any]) -> Placement:
        return Placement(self._orientation[files].astype(np.int64), self._boxes[files].astype(np.float64))

    def _compare_candidates(self, found: Candidates) -> None:
        """Compare candidate pairs, the most similar first, and join those that match."""
        found = found[self._new_candidates(found)]
        correlation = np.zeros(len(found))
        for start in range(0, len(found), _BLOCK_SIZE):
            part = slice(start, start + _BLOCK_SIZE)
            correlation[part] = self._coarse_correlation(found[part])
        is_likely = correlation >= _MIN_COARSE_CORRELATION
        np.subtract.at(self._budget, found["copy"][~is_likely], 1)
        # A symmetric picture matches in several orientations: prefer the same orientation and no crop.
        preference = correlation + 0.02 * (found["orientation"] == 0) + 0.02 * (found["window"] == 0)
        order = np.argsort(-preference, kind="stable")
        pending = found[order[is_likely[order]]]
        while len(pending):
            pending = np.concatenate([self._compare_batch(pending[:_BATCH_SIZE]), pending[_BATCH_SIZE:]])

    def _new_candidates(self, found: Candidates) -> NDArray[Any]:
        """Return the indices of pairs that are new, not yet in one group, and within the photo's budget."""
        pair = found["copy"] * np.int64(1_000_003) + found["original"]
        code = (pair * 8 + found["orientation"]) * 32 + found["window"]
        code = code.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        _, once = np.unique(code, return_index=True)
        once.sort()
        slot = (code[once] >> np.uint64(40)).astype(np.int64) % _SEEN_SLOTS
        tag = (code[once] >> np.uint64(8)).astype(np.uint32) | np.uint32(1)
        new = self._seen[slot] != tag
        self._seen[slot] = tag
        once = once[new]
        copy, original = found["copy"][once], found["original"][once]
        is_same_group = self._original[copy] == self._original[original]
        return np.asarray(once[self._active[copy] & (self._budget[copy] > 0) & ~is_same_group])

    def _coarse_correlation(self, found: Candidates) -> NDArray[np.float64]:
        """Correlate the 16 × 16 greys of N pairs → (N,); 0 where the proportions differ."""
        guess = _guess(found)
        correlation = np.zeros(len(found))
        sizes = self._sizes[found["original"]], self._sizes[found["copy"]]
        indices = np.nonzero(same_proportions(*sizes, guess, ROUGH_RATIO))[0]
        pair = found["original"][indices], found["copy"][indices]
        originals, copies = (greys_of(self._coarse_greys, files) for files in pair)
        correlation[indices] = coarse_correlation(originals, copies, guess.at(indices))
        return correlation

    def _load_smoothed(self, file: int) -> Floats:
        greys = self._thumbnail(int(self._files[file]))
        # A flat thumbnail matches none.
        return smoothed(np.zeros((THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.uint8) if greys is None else greys)

    def _compare_batch(self, batch: Candidates) -> Candidates:
        """Join the pairs that match; return those to compare again because their original has joined another group."""
        copies, leaders = batch["copy"], self._original[batch["original"]]
        is_open = (self._original[copies] == copies) & (leaders != copies) & (self._budget[copies] > 0)
        batch, leaders = batch[is_open], leaders[is_open]
        guess = _guess(batch).then(self.placement(batch["original"]))
        same, found = self._match(leaders, batch["copy"], guess)
        np.subtract.at(self._budget, batch["copy"][~same], _THUMBNAIL_COST)
        again = []
        for index in np.nonzero(same)[0].tolist():
            copy, leader = int(batch["copy"][index]), int(leaders[index])
            if self._original[copy] != copy:
                continue
            if self._original[leader] != leader:
                again.append(index)
                continue
            self._join(copy, leader, found.at(np.array([index])))
        return batch[again]

    def _match(
        self, originals: NDArray[Any], copies: NDArray[Any], guess: Placement
    ) -> tuple[NDArray[np.bool_], Placement]:
        """Compare thumbnails: whether each copy shows its original or a part of it, and its placement."""
        if not len(copies):
            return np.zeros(0, bool), guess
        one, other = (np.stack([self._smoothed(file) for file in files.tolist()]) for files in (originals, copies))
        same, found = compare(one, other, guess, movable=self._sizes[copies].min(axis=1) >= MIN_SIDE)
        return same & same_proportions(self._sizes[originals], self._sizes[copies], found), found

    def _join(self, copy: int, original: int, placement: Placement) -> None:
        """Add a photo and its own duplicates to the group of an original."""
        # If neither is cropped from the other, the original is that of the larger group, then the larger photo.
        copy_rank, original_rank = (
            (len(self.members.get(photo, ())), float(self._sizes[photo].prod()), -photo) for photo in (copy, original)
        )
        if not placement.cropped[0] and copy_rank > original_rank:
            copy, original, placement = original, copy, placement.inverse()
        moved = self.members.pop(copy, _NO_FILES)
        group = self.members.setdefault(original, array("i"))
        self._place(copy, original, placement.at(np.array([0])))
        group.append(copy)
        for start in range(0, len(moved), _BATCH_SIZE):
            files = np.array(moved[start : start + _BATCH_SIZE])
            guess = self.placement(files).then(placement.at(np.zeros(len(files), np.int64)))
            same, found = self._match(np.full(len(files), original), files, guess)
            self._moves[files] += 1
            for k, file in enumerate(files.tolist()):
                if same[k] and self._moves[file] < _MAX_MOVES:
                    self._place(file, original, found.at(np.array([k])))
                    group.append(file)
                else:
                    self._original[file], self._active[file] = file, True
                    self._orientation[file], self._boxes[file] = 0, _WHOLE_BOX

    def _place(self, copy: int, original: int, placement: Placement) -> None:
        self._original[copy], self._active[copy] = original, False
        self._orientation[copy], self._boxes[copy] = placement.orientation[0], placement.boxes[0]


def _guess(found: Candidates) -> Placement:
    """Return the placement that the matching hashes imply."""
    x, y, width, height = np.array(WINDOWS, np.float64)[found["window"]].T / COARSE_SIZE
    return Placement(found["orientation"], np.stack([x, y, x + width, y + height], axis=1))
