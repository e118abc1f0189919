"""Photos that are there twice: copies to the byte, and the same picture in another file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._facts import LOOK_SIZE, Facts

Numbers: TypeAlias = NDArray[np.float32]

# Two photos are near-duplicates where few of 64 comparisons of neighbouring greys differ and the thumbnails agree in
# every detail. Measured on 300 Caltech photos: recompressed at quality 40, halved in size or given 30 % more contrast,
# at least 99 % of them are found again, and 75 % brightened by 30 %; 36 groups of its 5,784 photos pass.
MAX_DIFFERING_BITS = 10
MIN_CORRELATION = 0.985
# Flat pictures (a white page, a black frame) look all alike without being the same.
_MIN_CONTRAST = 4.0
_BLOCK = 512  # rows compared at once: some megabytes


def copies(facts: Sequence[Facts]) -> list[list[int]]:
    """Groups of two and more photos with the same bytes; photos that cannot be used are left out."""
    groups = defaultdict(list)
    for index, found in enumerate(facts):
        if found.broken is None:
            groups[found.sha256].append(index)
    return [group for group in groups.values() if len(group) > 1]


def near_copies(facts: Sequence[Facts]) -> list[list[int]]:
    """Groups of photos that show the same picture in different files; of copies to the byte one stands for all."""
    first: dict[str, int] = {}
    for index, found in enumerate(facts):
        if found.broken is None:
            first.setdefault(found.sha256, index)
    indices = np.array(sorted(first.values()), dtype=np.int64)
    if len(indices) < 2:
        return []
    looks = np.stack([np.frombuffer(facts[i].look, np.uint8).reshape(LOOK_SIZE, LOOK_SIZE) for i in indices])
    kept = looks.std(axis=(1, 2)) >= _MIN_CONTRAST
    indices, looks = indices[kept], looks[kept]
    sizes = [(facts[i].width, facts[i].height) for i in indices]
    ratios = np.array([width / height for width, height in sizes], np.float32)
    return _joined([(int(indices[a]), int(indices[b])) for a, b in _pairs(looks, ratios)])


def _pairs(looks: NDArray[np.uint8], ratios: Numbers) -> list[tuple[int, int]]:
    bits = _bits(looks)
    flat = looks.reshape(len(looks), LOOK_SIZE * LOOK_SIZE).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    found: list[tuple[int, int]] = []
    for start in range(0, len(looks), _BLOCK):
        differing = np.bitwise_count(bits[start : start + _BLOCK, None] ^ bits[None, start:])
        rows, columns = np.nonzero(differing <= MAX_DIFFERING_BITS)
        later = columns > rows
        one, other = rows[later] + start, columns[later] + start
        alike = np.einsum("ij,ij->i", flat[one], flat[other]) >= MIN_CORRELATION
        # A copy keeps its shape, give or take a cropped edge.
        alike &= np.abs(np.log(ratios[one] / ratios[other])) < 0.1
        found += list(zip(one[alike].tolist(), other[alike].tolist(), strict=True))
    return found


def _bits(looks: NDArray[np.uint8]) -> NDArray[Any]:
    """64 bits a photo: whether each of 8 × 9 coarse greys is brighter than its right neighbour ("dHash")."""
    greys = looks.astype(np.float32)
    rows = greys.reshape(len(looks), 8, 2, LOOK_SIZE).mean(axis=2)
    # 16 columns → 9 by linear interpolation.
    places = np.linspace(0, LOOK_SIZE - 1, 9)
    left = np.minimum(places.astype(int), LOOK_SIZE - 2)
    share = (places - left).astype(np.float32)
    coarse = rows[:, :, left] * (1 - share) + rows[:, :, left + 1] * share
    brighter = coarse[:, :, 1:] > coarse[:, :, :-1]
    return np.packbits(brighter.reshape(len(looks), 64), axis=1).view(np.uint64).ravel()


def _joined(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Pairs → groups: what is alike to the same photo belongs together."""
    leader: dict[int, int] = {}

    def find(index: int) -> int:
        while leader.setdefault(index, index) != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for one, other in pairs:
        leader[find(one)] = find(other)
    groups = defaultdict(list)
    for index in sorted(leader):
        groups[find(index)].append(index)
    return sorted(groups.values())
