"""Perceptual hashes of photos, and candidate pairs of near-duplicates whose hashes differ in few bits.

A hash has one bit for each of 62 low frequencies of a photo's greys: the sign of its coefficient in the discrete cosine
transform ("pHash", Zauner 2010). Mirroring flips the bits of odd frequencies and transposing swaps rows and columns, so
the hashes of all eight orientations follow from one. The hashes of a whole photo in eight orientations are the queries,
and those of every photo and of windows of it, one of which a cropped duplicate resembles, are the index.

Time and memory are bounded for any number and similarity of photos: hashes are sorted by several orders of their bits
(tables), and each is compared only with its neighbours (locality-sensitive hashing by sorted prefixes).
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

# Smaller coefficients are noise, such as half of those of a symmetric picture: their bit is 0. 16 levels × pixels of
# 256 pixels, a sixteenth of a level.
_NOISE = 16.0

_PHOTOS_PER_BLOCK = 8192  # whose hashes are computed at once: 8 MB of greys
_PART = 1 << 19  # hashes sorted at once: 20 MB
_QUERIES = 1 << 16  # compared with a part at once: 10 MB
# If more hashes share a prefix than fit in a part, as those of one picture do: the first 8 parts are compared with all
# queries, later ones with an eighth.
_MAX_FULL_PARTS = 8
_FAR = np.int16(64 * (MAX_DIFFERING_BITS + 1))


# (row, column) of each bit, the lowest frequency first; the mean and the highest are left out.
_BITS = sorted(
    ((u, v) for u in range(_FREQUENCIES) for v in range(_FREQUENCIES) if 0 < u + v < 2 * _FREQUENCIES - 2),
    key=lambda pair: (sum(pair), max(pair), pair),
)
_ROWS, _COLUMNS = (list(index) for index in zip(*_BITS, strict=True))
_STABLE = sum(u + v <= 6 for u, v in _BITS)  # 27 bits: 99 % of copies differ in 4 of them or less
_BIT_VALUES = np.uint64(1) << np.arange(63, 63 - len(_BITS), -1, dtype=np.uint64)


def _bit_orders() -> list[list[int]]:
    """Return the order of the bits in each table: three of six bands of the stable bits, the other three, the rest.

    A duplicate that differs in up to three stable bits has three equal bands, so it is near its original in a table.
    """
    bands = [list(range(start, _STABLE, 6)) for start in range(6)]  # of four or five, low and high frequencies in each
    orders = []
    for number, first in enumerate(combinations(range(6), 3)):
        others = [band for band in range(6) if band not in first]
        turned = others[number % 3 :] + others[: number % 3]
        orders.append([bit for band in (*first, *turned) for bit in bands[band]] + list(range(_STABLE, len(_BITS))))
    return orders


def coefficients(greys: Floats, window: tuple[int, int, int, int]) -> Floats:
    """Return the lowest 8 × 8 frequencies of a window: (N, 16, 16) → (N, 8, 8), rows first."""
    x, y, width, height = window
    part = greys[:, y : y + height, x : x + width]
    return np.asarray(_cosines(height) @ part @ _cosines(width).T, np.float32)


def _cosines(size: int) -> Floats:
    positions = (np.arange(size) + 0.5) / size
    return np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * positions).astype(np.float32)


def hashes_of(found: Floats) -> Hashes:
    """Hash coefficients (N, 8, 8) → (N,); due to noise, negated coefficients do not give the complement."""
    return np.asarray((found[:, _ROWS, _COLUMNS] > _NOISE) @ _BIT_VALUES, np.uint64)


def _flip(orientation: int) -> np.uint64:
    """Return the mask of bits that an orientation flips, after the transposition."""
    flipped = [bool(orientation & 1 and v % 2) != bool(orientation & 2 and u % 2) for u, v in _BITS]
    return np.uint64(sum(int(bit) for bit, flip in zip(_BIT_VALUES, flipped, strict=True) if flip))


_FLIPS = np.array([_flip(orientation) for orientation in range(ORIENTATIONS)], np.uint64)


@dataclass(frozen=True)
class Index:
    """The hashes of N photos."""

    photos: NDArray[np.int32]  # (N,) indices of the photos
    windows: Hashes  # (N, 16)
    # (N, 2, 2) of the whole photo: upright and transposed, of its coefficients and of their negatives
    whole: Hashes
    detailed: NDArray[np.bool_]  # (N,) whether other orientations and windows are searched

    @classmethod
    def of(cls, coarse_greys: Callable[[int], bytes], photos: NDArray[np.int32], detailed: NDArray[np.bool_]) -> Index:
        """Compute the hashes from the 16 × 16 greys of each photo."""
        windows = np.empty((len(photos), len(WINDOWS)), np.uint64)
        whole = np.empty((len(photos), 2, 2), np.uint64)
        for start in range(0, len(photos), _PHOTOS_PER_BLOCK):
            part = slice(start, start + _PHOTOS_PER_BLOCK)
            greys = greys_of(coarse_greys, photos[part])
            for number, window in enumerate(WINDOWS):
                windows[part, number] = hashes_of(coefficients(greys, window))
            found = coefficients(greys, WINDOWS[0])
            for turned, values in enumerate((found, found.transpose(0, 2, 1))):
                whole[part, turned, 0], whole[part, turned, 1] = hashes_of(values), hashes_of(-values)
        return cls(photos, windows, whole, detailed)

    def oriented(self, indices: NDArray[Any] | slice, kinds: NDArray[Any] | int) -> Hashes:
        """Return the hashes of whole photos in these orientations.

        Negating a coefficient flips its bit unless it is noise, whose bit is 0 either way.
        """
        turned = kinds >> 2
        flips = _FLIPS[kinds]
        return np.asarray(self.whole[indices, turned, 0] & ~flips | self.whole[indices, turned, 1] & flips, np.uint64)


def greys_of(coarse_greys: Callable[[int], bytes], photos: NDArray[Any]) -> Floats:
    """Join the coarse greys of N photos → (N, 16, 16)."""
    joined = b"".join(map(coarse_greys, photos.tolist()))
    return np.frombuffer(joined, np.uint8).reshape(-1, COARSE_SIZE, COARSE_SIZE).astype(np.float32)


# (N,) pairs of photos that may be duplicates: the hash of the `copy` in that `orientation` is near the hash of a
# `window` (an index of `WINDOWS`) of the `original`.
Candidates: TypeAlias = NDArray[np.void]
_CANDIDATE = np.dtype([(name, np.int64) for name in ("copy", "original", "orientation", "window")])


def candidates(index: Index, active: NDArray[np.bool_]) -> Iterator[Candidates]:
    """Iterate over pairs whose hashes differ in few bits: at most two per photo, orientation and part of a table.

    `active` (all photos,) marks the photos to search; the caller may change it between two parts.
    """
    # With few photos there is time for more neighbours, which finds more.
    reach = int(np.clip(1_000_000 // max(len(index.photos), 1), 4, 32))
    depth = max(0, int(np.ceil(np.log2(max(len(index.photos) * len(WINDOWS), 1) / _PART))))
    for order in _bit_orders():
        # All hashes would not fit in memory: those with a common prefix are sorted together.
        leading = [_BIT_VALUES[bit] for bit in order[:depth]]
        mask = sum(leading, np.uint64(0))
        for value in range(1 << depth):
            pattern = sum((bit for shift, bit in enumerate(leading) if value >> shift & 1), np.uint64(0))
            for number, entries in enumerate(_parts(index, active, mask, pattern, _PART, oriented=False)):
                originals = _sorted(index, entries, order, oriented=False)
                for other, queries in enumerate(_parts(index, active, mask, pattern, _QUERIES, oriented=True)):
                    if number < _MAX_FULL_PARTS or number % _MAX_FULL_PARTS == other % _MAX_FULL_PARTS:
                        yield _nearest(_sorted(index, queries, order, oriented=True), originals, reach)


def _parts(
    index: Index, active: NDArray[np.bool_], mask: np.uint64, pattern: np.uint64, size: int, *, oriented: bool
) -> Iterator[Indices]:
    """Iterate over codes (kind × photos + photo) of active photos whose masked hash bits equal the pattern."""
    codes: list[Indices] = []
    room = size
    for kind in range(ORIENTATIONS if oriented else len(WINDOWS)):
        is_active = active[index.photos]
        if kind:
            is_active &= index.detailed
        hashes = index.oriented(slice(None), kind) if oriented else index.windows[:, kind]
        is_active &= (hashes & mask) == pattern
        found = np.nonzero(is_active)[0].astype(np.int32)
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
    """Sort hashes by their bits in that order."""
    kinds, indices = np.divmod(codes, len(index.photos))
    hashes = index.oriented(indices, kinds) if oriented else index.windows[indices, kinds]
    keys = np.zeros(len(codes), np.uint32)
    for bit in order[:32]:
        keys = (keys << np.uint32(1)) | ((hashes & _BIT_VALUES[bit]) != 0)
    ranks = np.argsort(keys)
    return _Sorted(keys[ranks], hashes[ranks], index.photos[indices[ranks]], kinds[ranks].astype(np.int8))


def _nearest(queries: _Sorted, entries: _Sorted, reach: int) -> Candidates:
    """Return the two nearest entries of each query among its neighbours in the order of the keys."""
    # Search to the left: if many entries have the same key, all queries meet the first of them.
    start = np.searchsorted(entries.keys, queries.keys)
    hashes: Hashes = np.pad(entries.hashes, reach)
    photos: NDArray[np.int32] = np.pad(entries.photos, reach, constant_values=-1)  # beyond the ends
    # Of each query the two least of 64 · differing bits + step: of equally near entries, the first.
    best, second = (np.full(len(start), _FAR, np.int16) for _ in range(2))
    for step in range(2 * reach):
        position = start + step
        key = np.bitwise_count(queries.hashes ^ hashes[position]).astype(np.int16)
        key *= 64
        key += np.int16(step)
        near = photos[position]
        key[(near == queries.photos) | (near < 0)] = _FAR
        np.minimum(second, np.maximum(best, key), out=second)
        np.minimum(best, key, out=best)
    query = np.concatenate([np.nonzero(row < _FAR)[0] for row in (best, second)])
    entry = np.concatenate([(start + row % 64 - reach)[row < _FAR] for row in (best, second)])
    pairs = np.empty(len(query), _CANDIDATE)
    pairs["copy"], pairs["orientation"] = queries.photos[query], queries.kinds[query]
    pairs["original"], pairs["window"] = entries.photos[entry], entries.kinds[entry]
    return pairs
