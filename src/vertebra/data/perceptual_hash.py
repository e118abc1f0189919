"""Perceptual hashes of photos, and which photos have hashes so close that a comparison is worth its time.

A hash has one bit for each of 62 low frequencies of a photo's greys: the sign of its coefficient in the discrete cosine
transform ("pHash", Zauner 2010). Mirroring a photo flips the bits of odd frequencies and transposing it exchanges
rows and columns, so the hashes of all eight orientations follow from one. A photo is found by the hash of all of it in
eight orientations, among the hashes of all of every photo and of windows of it, one of which a cropped copy resembles.

Time and memory are bounded for any number of photos and any similarity: hashes are sorted with their bits in several
orders (tables), and each is compared with its neighbours alone (locality-sensitive hashing by sorted prefixes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .image_info import COARSE_SIZE

Floats: TypeAlias = NDArray[np.float32]
Hashes: TypeAlias = NDArray[np.uint64]
Indices: TypeAlias = NDArray[np.int64]

_FREQUENCIES = 8
# Of 500 Caltech photos, copies cropped to 7/8 differ from the nearest window in 11 bits or less (99 %), others in less.
MAX_DIFFERING_BITS = 12

# Windows (x, y, width, height) of the 16 × 16 greys: the whole, 7/8 of both sides in the corners and the middle, 15/16
# in the corners, and 7/8 of one side alone.
WINDOWS = (
    (0, 0, 16, 16),
    *((x, y, 14, 14) for x, y in ((0, 0), (2, 0), (1, 1), (0, 2), (2, 2))),
    *((x, y, 15, 15) for x in range(2) for y in range(2)),
    *((x, 0, 14, 16) for x in range(3)),
    *((0, y, 16, 14) for y in range(3)),
)

# An orientation is a transposition (4), then a flip up to down (2), then one left to right (1).
ORIENTATIONS = 8

# A coefficient that is no larger is noise, as half of them are in a symmetric picture: no sign is read into it. 16
# levels × pixels of 256 pixels, a sixteenth of a level.
_NOISE = 16.0

_BLOCK = 8192  # photos whose hashes are computed at once: 8 MB of greys
_PART = 1 << 19  # hashes sorted at once: 20 MB
_QUERIES = 1 << 16  # so many are compared with them at once: 10 MB
# Where many more hashes begin alike than a part holds, as those of one picture do: the parts that are compared with
# all, and of how many others one.
_MOST_PARTS = 8


# (row, column) of each bit, the lowest frequency first; the mean and the highest are left out.
_BITS = sorted(
    ((u, v) for u in range(_FREQUENCIES) for v in range(_FREQUENCIES) if 0 < u + v < 2 * _FREQUENCIES - 2),
    key=lambda pair: (sum(pair), max(pair), pair),
)
_ROWS, _COLUMNS = (list(index) for index in zip(*_BITS, strict=True))
_STABLE = sum(u + v <= 6 for u, v in _BITS)  # 27 bits: 99 % of copies differ in 4 of them or less
_PLACES = np.uint64(1) << np.arange(63, 63 - len(_BITS), -1, dtype=np.uint64)


def _orders() -> list[list[int]]:
    """For each table the order of the bits: with any three of the six parts in front, then the others, then the rest.

    A copy that differs in up to three of the stable bits has three parts without a difference, and so is near its
    original in at least one table.
    """
    bands = [list(range(start, _STABLE, 6)) for start in range(6)]  # of four or five, low and high frequencies in each
    orders = []
    for number, first in enumerate(combinations(range(6), 3)):
        others = [band for band in range(6) if band not in first]
        turned = others[number % 3 :] + others[: number % 3]
        orders.append([bit for band in (*first, *turned) for bit in bands[band]] + list(range(_STABLE, len(_BITS))))
    return orders


def coefficients(greys: Floats, window: tuple[int, int, int, int]) -> Floats:
    """The lowest 8 × 8 frequencies of a window: (N, 16, 16) → (N, 8, 8), rows first."""
    x, y, width, height = window
    part = greys[:, y : y + height, x : x + width]
    return np.asarray(_cosines(height) @ part @ _cosines(width).T, np.float32)


def _cosines(size: int) -> Floats:
    places = (np.arange(size) + 0.5) / size
    return np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * places).astype(np.float32)


def hashes_of(found: Floats) -> Hashes:
    """(N, 8, 8) coefficients → (N,) hashes; those of the negated coefficients are not their complement."""
    return np.asarray((found[:, _ROWS, _COLUMNS] > _NOISE) @ _PLACES, np.uint64)


def _flip(orientation: int) -> np.uint64:
    """The bits that are flipped in an orientation's hash, after the transposition."""
    flipped = [bool(orientation & 1 and v % 2) != bool(orientation & 2 and u % 2) for u, v in _BITS]
    return np.uint64(sum(int(place) for place, flip in zip(_PLACES, flipped, strict=True) if flip))


_FLIPS = np.array([_flip(orientation) for orientation in range(ORIENTATIONS)], np.uint64)


@dataclass(frozen=True)
class Index:
    """The hashes of some photos; `photos` says which."""

    photos: NDArray[np.int32]  # (N,)
    windows: Hashes  # (N, 16)
    # (N, 2, 2) of the whole, as it stands and transposed, of its coefficients and of the negated ones
    whole: Hashes
    detailed: NDArray[np.bool_]  # (N,) whether other orientations and windows are looked for

    @classmethod
    def of(cls, look: Callable[[int], bytes], photos: NDArray[np.int32], detailed: NDArray[np.bool_]) -> Index:
        """Compute the hashes from the 16 × 16 greys that `look` gives of each photo."""
        windows = np.empty((len(photos), len(WINDOWS)), np.uint64)
        whole = np.empty((len(photos), 2, 2), np.uint64)
        for start in range(0, len(photos), _BLOCK):
            part = slice(start, start + _BLOCK)
            greys = greys_of(look, photos[part])
            for place, window in enumerate(WINDOWS):
                windows[part, place] = hashes_of(coefficients(greys, window))
            found = coefficients(greys, WINDOWS[0])
            for turned, values in enumerate((found, found.transpose(0, 2, 1))):
                whole[part, turned, 0], whole[part, turned, 1] = hashes_of(values), hashes_of(-values)
        return cls(photos, windows, whole, detailed)

    def oriented(self, places: NDArray[Any] | slice, kinds: NDArray[Any] | int) -> Hashes:
        """Hashes of the whole in those orientations, as if computed anew.

        Negating a coefficient flips its bit, but not where it is noise, whose bit is 0 either way.
        """
        turned = kinds >> 2
        flips = _FLIPS[kinds]
        return np.asarray(self.whole[places, turned, 0] & ~flips | self.whole[places, turned, 1] & flips, np.uint64)


def greys_of(look: Callable[[int], bytes], photos: NDArray[Any]) -> Floats:
    """(N, 16, 16)."""
    joined = b"".join(map(look, photos.tolist()))
    return np.frombuffer(joined, np.uint8).reshape(-1, COARSE_SIZE, COARSE_SIZE).astype(np.float32)


# (N,) pairs of photos that may show the same picture: the `copy` would lie wholly inside the `original`, in whose
# `window`, by its place in `WINDOWS`, it has the same hash in that `orientation`.
Candidates: TypeAlias = NDArray[np.void]
_CANDIDATE = np.dtype([(name, np.int64) for name in ("copy", "original", "orientation", "window")])


def candidates(index: Index, active: NDArray[np.bool_]) -> Iterator[Candidates]:
    """Pairs whose hashes differ in few bits: at most two for each orientation of each photo in each part of a table.

    `active` (photos in all,) says which photos still count; the caller may change it between two parts.
    """
    # Few photos can afford more comparisons with neighbours, which finds more.
    reach = int(np.clip(1_000_000 // max(len(index.photos), 1), 4, 32))
    depth = max(0, int(np.ceil(np.log2(max(len(index.photos) * len(WINDOWS), 1) / _PART))))
    for order in _orders():
        # All hashes at once would not fit in memory: those that begin alike are sorted together.
        leading = [_PLACES[bit] for bit in order[:depth]]
        mask = sum(leading, np.uint64(0))
        for value in range(1 << depth):
            pattern = sum((bit for place, bit in enumerate(leading) if value >> place & 1), np.uint64(0))
            for number, entries in enumerate(_parts(index, active, mask, pattern, _PART, oriented=False)):
                originals = _sorted(index, entries, order, oriented=False)
                for other, queries in enumerate(_parts(index, active, mask, pattern, _QUERIES, oriented=True)):
                    if number < _MOST_PARTS or number % _MOST_PARTS == other % _MOST_PARTS:
                        yield _nearest(_sorted(index, queries, order, oriented=True), originals, reach)


def _parts(
    index: Index, active: NDArray[np.bool_], mask: np.uint64, pattern: np.uint64, size: int, *, oriented: bool
) -> Iterator[Indices]:
    """Codes (kind × photos + photo) of the hashes of active photos whose masked bits are those of the pattern."""
    codes: list[Indices] = []
    room = size
    for kind in range(ORIENTATIONS if oriented else len(WINDOWS)):
        alive = active[index.photos]
        if kind:
            alive &= index.detailed
        hashes = index.oriented(slice(None), kind) if oriented else index.windows[:, kind]
        alive &= (hashes & mask) == pattern
        found = np.nonzero(alive)[0].astype(np.int32)
        while len(found) >= room:
            codes.append(found[:room] + np.int64(kind * len(index.photos)))
            yield np.concatenate(codes)
            found, codes, room = found[room:], [], size
        codes.append(found + np.int64(kind * len(index.photos)))
        room -= len(found)
    if room < size:
        yield np.concatenate(codes)


@dataclass(frozen=True)
class _Sorted:
    keys: NDArray[np.uint32]
    hashes: Hashes
    photos: NDArray[np.int32]
    kinds: NDArray[np.int8]


def _sorted(index: Index, codes: Indices, order: Sequence[int], *, oriented: bool) -> _Sorted:
    """Hashes, sorted by their bits in that order."""
    kinds, places = np.divmod(codes, len(index.photos))
    hashes = index.oriented(places, kinds) if oriented else index.windows[places, kinds]
    keys = np.zeros(len(codes), np.uint32)
    for bit in order[:32]:
        keys = (keys << np.uint32(1)) | ((hashes & _PLACES[bit]) != 0)
    ranks = np.argsort(keys)
    return _Sorted(keys[ranks], hashes[ranks], index.photos[places[ranks]], kinds[ranks].astype(np.int8))


def _nearest(queries: _Sorted, entries: _Sorted, reach: int) -> Candidates:
    """The two entries nearest to each query among its neighbours in the order of the keys."""
    # To the left: where many entries have the same key, all queries meet the first of them.
    start = np.searchsorted(entries.keys, queries.keys)
    far = np.uint8(MAX_DIFFERING_BITS + 1)
    best = np.full((2, len(start)), far)
    found = np.zeros((2, len(start)), np.int32)
    for step in range(-reach, reach):
        place = start + step
        inside = (place >= 0) & (place < len(entries.keys))
        place[~inside] = 0
        differing = np.bitwise_count(queries.hashes ^ entries.hashes[place])
        differing[~inside | (queries.photos == entries.photos[place])] = far
        first = differing < best[0]
        second = ~first & (differing < best[1])
        best[1] = np.where(first, best[0], np.where(second, differing, best[1]))
        found[1] = np.where(first, found[0], np.where(second, place, found[1]))
        best[0] = np.where(first, differing, best[0])
        found[0] = np.where(first, place, found[0])
    query = np.concatenate([np.nonzero(row < far)[0] for row in best])
    entry = np.concatenate([places[row < far] for places, row in zip(found, best, strict=True)])
    pairs = np.empty(len(query), _CANDIDATE)
    pairs["copy"], pairs["orientation"] = queries.photos[query], queries.kinds[query]
    pairs["original"], pairs["window"] = entries.photos[entry], entries.kinds[entry]
    return pairs
