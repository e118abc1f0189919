"""Decides whether one photo shows another or a part of it, in any of eight orientations.

Thumbnails of 64 × 64 greys are aligned by translation and scale (Lucas and Kanade 1981). Then both the greys and the
details, which are the greys without their local mean, must correlate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .image_info import COARSE_SIZE, THUMBNAIL_SIZE

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Numbers: TypeAlias = NDArray[np.int64]

# Measured by bench/duplicates.py: at least 95 % of each kind of copies of Caltech photos pass, and of different photos
# only those of similar objects before the same background.
MIN_CORRELATION = 0.9  # of the greys
MIN_DETAIL = 0.965  # of the greys minus their mean over 5 × 5 of 32 × 32
MIN_EVEN_DETAIL = 0.92  # of the details divided by their local strength, so that strong edges do not dominate
# Flat pictures (a white page, a black frame) and plain gradients all correlate.
MIN_CONTRAST = 4.0  # standard deviation of the greys, of 255
MIN_DETAIL_CONTRAST = 1.0
# A duplicate may lack an eighth of either side, and its proportions may change by rounding and resizing.
_SLACK = 0.03
SMALLEST = 7 / 8 - _SLACK
MAX_RATIO = 0.1  # natural logarithm
ROUGH_RATIO = MAX_RATIO - float(np.log(SMALLEST))  # if one side alone may be cropped
_CROPPED = 0.965  # share of a side below which the kind is "cropped"

_GRID = 32  # points in either direction at which thumbnails are compared
_STEPS = 4
_LONGEST_STEP = 0.06  # of a side
_MIN_ALIGNABLE = 0.7  # correlation below which alignment rarely helps
_FAINT = 2.0  # grey levels: weaker details count less
_CLIPPED = 245.0  # grey level from which brightening may have clipped details

SAME = "same picture"
# By orientation: a transposition (4), then a flip up to down (2), then one left to right (1) turn a copy into its
# original.
_NAMES = (
    "",
    "mirrored",
    "mirrored top to bottom",
    "rotated by 180°",
    "mirrored and rotated",
    "rotated by 90° counter-clockwise",
    "rotated by 90° clockwise",
    "mirrored and rotated",
)
_KINDS = [", ".join(part for part in (name, cropped) if part) or SAME for name in _NAMES for cropped in ("", "cropped")]


@dataclass(frozen=True)
class Placement:
    """Positions of copies in their originals."""

    orientation: Numbers  # (N,) of the copies, 0 … 7
    boxes: Doubles  # (N, 4) left, top, right, bottom, as shares of the originals' sides

    def at(self, indices: NDArray[Any]) -> Placement:
        """Index along N."""
        return Placement(self.orientation[indices], self.boxes[indices])

    def then(self, outer: Placement) -> Placement:
        """Compose: first this placement, then `outer`."""
        start, size = outer.boxes[:, :2], outer.boxes[:, 2:] - outer.boxes[:, :2]
        inner = _orient_boxes(self.boxes, outer.orientation)
        boxes = np.concatenate([start + inner[:, :2] * size, start + inner[:, 2:] * size], axis=1)
        return Placement(_PRODUCTS[self.orientation, outer.orientation], boxes)

    def inverse(self) -> Placement:
        """Return the positions of the originals in their copies; beyond the frame if these are cropped."""
        size = self.boxes[:, 2:] - self.boxes[:, :2]
        boxes = np.concatenate([-self.boxes[:, :2] / size, (1 - self.boxes[:, :2]) / size], axis=1)
        back = _INVERSES[self.orientation]
        return Placement(back, _orient_boxes(boxes, back))

    @property
    def cropped(self) -> Flags:
        """(N,) whether the copies lack a part of their originals."""
        return np.asarray((self.boxes[:, 2:] - self.boxes[:, :2]).min(axis=1) < _CROPPED)

    def kinds(self) -> list[str]:
        """Describe how each copy differs from its original."""
        return [_KINDS[kind] for kind in (2 * self.orientation + self.cropped).tolist()]


def _orient_boxes(boxes: Doubles, orientation: Numbers) -> Doubles:
    """Transpose and flip boxes (N, 4)."""
    left, top, right, bottom = np.where((orientation & 4 > 0)[:, None], boxes[:, [1, 0, 3, 2]], boxes).T
    top, bottom = np.where(orientation & 2, (1 - bottom, 1 - top), (top, bottom))
    left, right = np.where(orientation & 1, (1 - right, 1 - left), (left, right))
    return np.stack([left, top, right, bottom], axis=1)


def _orient(greys: Floats, orientation: int) -> Floats:
    """Transpose and flip greys (…, S, S)."""
    if orientation & 4:
        greys = greys.swapaxes(-1, -2)
    if orientation & 2:
        greys = greys[..., ::-1, :]
    return greys[..., ::-1] if orientation & 1 else greys


def _upright(greys: Floats, orientation: Numbers) -> Floats:
    """Turn copies (N, S, S) to the orientation of their originals."""
    found = np.empty_like(greys)
    for value in np.unique(orientation).tolist():
        own = orientation == value
        found[own] = _orient(greys[own], value)
    return found


def _product(first: int, second: int) -> int:
    mark = np.arange(4, dtype=np.float32).reshape(2, 2)
    wanted = _orient(_orient(mark, first), second)
    return next(number for number in range(8) if np.array_equal(_orient(mark, number), wanted))


_PRODUCTS = np.array([[_product(first, second) for second in range(8)] for first in range(8)])
_INVERSES = np.argmin(_PRODUCTS, axis=1)


def smoothed(thumbnail: NDArray[np.uint8]) -> Floats:
    """Smooth a thumbnail, so that crops and originals are equally sharp: (64, 64) → (63, 63) at pixel corners."""
    greys = thumbnail[_edges_repeated(THUMBNAIL_SIZE, 1)][:, _edges_repeated(THUMBNAIL_SIZE, 1)].astype(np.float32)
    greys = greys[:-3] + 3 * (greys[1:-2] + greys[2:-1]) + greys[3:]
    return np.asarray((greys[:, :-3] + 3 * (greys[:, 1:-2] + greys[:, 2:-1]) + greys[:, 3:]) / 64, np.float32)


def coarse_correlation(originals: Floats, copies: Floats, guess: Placement) -> Doubles:
    """Correlate greys (N, 16, 16) at the guessed placement → (N,)."""
    values, _ = _sampler(originals, COARSE_SIZE, COARSE_SIZE, 0.5)(guess.boxes)
    return _correlation(values, _upright(copies, guess.orientation))


def compare(originals: Floats, copies: Floats, guess: Placement, *, movable: Flags) -> tuple[Flags, Placement]:
    """Compare copies with their originals: return whether each matches, and its placement.

    Args:
        originals: (N, 63, 63), from `smoothed`.
        copies: the same.
        guess: the placement, to within about a sixteenth of the sides.
        movable: (N,) whether to improve the guess; False for photos with too few pixels.
    """
    targets = _upright(copies[:, ::2, ::2], guess.orientation)
    boxes = guess.boxes.copy()
    values, _ = _sampler(originals, _GRID, THUMBNAIL_SIZE, 1.0)(boxes)
    best = _correlation(values, targets)
    same = _matches(values, targets, best)
    open_ = np.nonzero(~same & movable & (best >= _MIN_ALIGNABLE))[0]
    current = boxes[open_]
    for _ in range(_STEPS):
        if not len(open_):
            break
        sample = _sampler(originals[open_], _GRID, THUMBNAIL_SIZE, 1.0)
        values, gradients = sample(current)
        current = _improve_boxes(values, gradients(), targets[open_], current)
        values, _ = sample(current)
        found = _correlation(values, targets[open_])
        better = found > best[open_]
        best[open_[better]], boxes[open_[better]] = found[better], current[better]
        same[open_] = better & _matches(values, targets[open_], found)
        is_improving = ~same[open_] & better
        open_, current = open_[is_improving], current[is_improving]
    inside = (boxes[:, :2] > -_SLACK).all(axis=1) & (boxes[:, 2:] < 1 + _SLACK).all(axis=1)
    large = (boxes[:, 2:] - boxes[:, :2] > SMALLEST).all(axis=1)
    return same & inside & large, Placement(guess.orientation, boxes)


def same_proportions(
    original: NDArray[Any], copy: NDArray[Any], placement: Placement, tolerance: float = MAX_RATIO
) -> Flags:
    """Whether copies have the proportions of their box in the original → (N,).

    `original` and `copy` are (N, 2), width and height in pixels; `tolerance` is of the logarithm of the ratio.
    """
    inner = original * (placement.boxes[:, 2:] - placement.boxes[:, :2])
    turned = np.where((placement.orientation & 4 > 0)[:, None], copy[:, ::-1], copy)
    return np.asarray(np.abs(np.log(inner[:, 0] * turned[:, 1] / (inner[:, 1] * turned[:, 0]))) < tolerance)


Gradients: TypeAlias = Callable[[], tuple[Floats, Floats]]


def _sampler(greys: Floats, points: int, scale: int, offset: float) -> Callable[[Doubles], tuple[Floats, Gradients]]:
    """Return a function from boxes (N, 4) to the greys there, (N, points, points), and to their x and y gradients.

    Row or column i of `greys` is at (i + offset) / scale of the side; between them, greys are interpolated linearly.
    """
    size = greys.shape[1]
    centres = (np.arange(points) + 0.5) / points

    def weights(start: Doubles, stop: Doubles) -> tuple[Floats, Callable[[], Floats]]:
        positions = (start[:, None] * (1 - centres) + stop[:, None] * centres) * scale - offset
        positions = np.clip(positions, 0, size - 1.001).astype(np.float32)
        lower = np.floor(positions)
        far = np.asarray(positions - lower, np.float32)
        # Places of the two neighbours of each point, in weights (N, points, size).
        first = (np.arange(lower.size).reshape(lower.shape) * size + lower.astype(np.int64)).ravel()
        shape = (*lower.shape, size)
        return _scattered(first, 1 - far, far, shape), partial(_scattered, first, -1, 1, shape)

    def sample(boxes: Doubles) -> tuple[Floats, Gradients]:
        left, top, right, bottom = boxes.T
        (across, across_slope), (down, down_slope) = weights(left, right), weights(top, bottom)
        rows = down @ greys

        def gradients() -> tuple[Floats, Floats]:
            return (
                np.asarray((rows @ across_slope().swapaxes(1, 2)) * scale, np.float32),
                np.asarray((down_slope() @ greys @ across.swapaxes(1, 2)) * scale, np.float32),
            )

        return np.asarray(rows @ across.swapaxes(1, 2), np.float32), gradients

    return sample


def _scattered(places: Numbers, values: Floats | int, following: Floats | int, shape: tuple[int, ...]) -> Floats:
    """Return zeros with values at flat places, and others at the places behind these."""
    found = np.zeros(shape, np.float32)
    found.reshape(-1)[places] = np.ravel(values)
    found.reshape(-1)[places + 1] = np.ravel(following)
    return found


def _improve_boxes(values: Floats, gradients: tuple[Floats, Floats], targets: Floats, boxes: Doubles) -> Doubles:
    """Do one least-squares step for the boxes' sides, brightness and contrast."""
    right, down = gradients
    count = len(values)
    share = ((np.arange(_GRID) + 0.5) / _GRID).astype(np.float32)
    far_x, far_y = share[None, None, :], share[None, :, None]
    columns = (right * (1 - far_x), down * (1 - far_y), right * far_x, down * far_y, values)
    design = np.stack(columns, axis=1).reshape(count, len(columns), _GRID * _GRID)
    design -= design.mean(axis=2, keepdims=True)  # removes the brightness
    normal = (design @ design.swapaxes(1, 2)).astype(np.float64) + 1e-3 * np.eye(len(columns))
    wanted = (design @ targets.reshape(count, _GRID * _GRID, 1)).astype(np.float64)
    solved = np.linalg.solve(normal, wanted)[:, :, 0]
    contrast = np.maximum(solved[:, 4:5], 1e-2)
    return np.asarray(boxes + np.clip(solved[:, :4] / contrast, -_LONGEST_STEP, _LONGEST_STEP))


def _matches(values: Floats, targets: Floats, correlation: Doubles) -> Flags:
    """Whether greys and details correlate: (N, 32, 32) twice → (N,)."""
    same = np.zeros(len(values), bool)
    likely = np.nonzero(correlation >= MIN_CORRELATION)[0]
    if not len(likely):
        return same
    one, other = values[likely], targets[likely]
    # Ignore pixels clipped in one picture only, and their neighbours, unless they are most of the picture.
    lost = _dilate((one >= _CLIPPED) != (other >= _CLIPPED))
    kept = ~lost | (lost.mean(axis=(1, 2)) > 0.8)[:, None, None]
    details = [greys - _local_mean(greys, 5) for greys in (one, other)]
    # Without the edges, where padding distorts the local mean of a gradient.
    enough = np.minimum(*(detail[:, 2:-2, 2:-2].std(axis=(1, 2)) for detail in details)) >= MIN_DETAIL_CONTRAST
    even = [detail / np.sqrt(_local_mean(detail**2, 9) + _FAINT**2) for detail in details]
    same[likely] = (
        enough
        & (_correlation(details[0], details[1], kept) >= MIN_DETAIL)
        & (_correlation(even[0], even[1], kept) >= MIN_EVEN_DETAIL)
    )
    return same


def _dilate(mask: Flags) -> Flags:
    """Dilate a mask by one pixel."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    return np.asarray(rows[:, :, :-2] | rows[:, :, 1:-1] | rows[:, :, 2:])


def _local_mean(greys: Floats, size: int) -> Floats:
    """Return the mean over size × size points; edges are repeated."""
    numbers = _edges_repeated(_GRID, size // 2)
    padded = greys[:, numbers]
    rows = padded[:, :_GRID].copy()
    for k in range(1, size):
        rows += padded[:, k : k + _GRID]
    rows = rows[:, :, numbers]
    found = rows[:, :, :_GRID].copy()
    for k in range(1, size):
        found += rows[:, :, k : k + _GRID]
    return np.asarray(found / size**2, np.float32)


@lru_cache
def _edges_repeated(size: int, more: int) -> Numbers:
    """Return the indices 0 … size - 1, with the first and the last `more` times more: a sixth of np.pad's time."""
    return np.arange(-more, size + more).clip(0, size - 1)


def _correlation(one: Floats, other: Floats, kept: Flags | None = None) -> Doubles:
    """Pearson correlation of (N, H, W) twice → (N,), over the pixels of `kept`; 0 if one is flat."""
    if kept is None:
        one, other = (greys - greys.mean(axis=(1, 2), keepdims=True) for greys in (one, other))
    else:
        count = kept.sum(axis=(1, 2))[:, None, None]
        one, other = ((greys - (greys * kept).sum(axis=(1, 2), keepdims=True) / count) * kept for greys in (one, other))
    products = [np.einsum("nij,nij->n", a, b) for a, b in ((one, other), (one, one), (other, other))]
    norm = np.sqrt(products[1] * products[2])
    return np.asarray(products[0] / np.maximum(norm, 1e-3), np.float64)
