"""Whether one photo shows the same picture as another, or a part of it, in any of eight orientations.

Thumbnails of 64 × 64 greys are laid over one another, and moved and scaled until they agree best (Lucas and Kanade
1981); then what is left without the coarse greys must agree as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .image_info import COARSE_SIZE, THUMBNAIL_SIZE

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Numbers: TypeAlias = NDArray[np.int64]

# Measured by bench/duplicates.py: of copies of Caltech photos 95 % and more of each kind agree so well, and of pairs of
# different photos only those of like objects before the same background.
MIN_CORRELATION = 0.9  # of the greys
MIN_DETAIL = 0.965  # of the greys less their mean over 5 × 5 of 32 × 32
MIN_EVEN_DETAIL = 0.92  # of these divided by their strength around each point: not of the strongest edges alone
# Flat pictures (a white page, a black frame) and mere gradients look all alike without being the same.
MIN_CONTRAST = 4.0  # standard deviation of the greys, of 255
MIN_DETAIL_CONTRAST = 1.0
# A copy may lack an eighth of either side, and be changed in its proportions as much as rounding and resizing do.
_SLACK = 0.03
SMALLEST = 7 / 8 - _SLACK
MAX_RATIO = 0.1  # natural logarithm
ROUGH_RATIO = MAX_RATIO - float(np.log(SMALLEST))  # where one side alone may have been cropped
_CROPPED = 0.965  # of a side: below it is told as cropped

_GRID = 32  # points in either direction at which thumbnails are compared
_STEPS = 4
_LONGEST_STEP = 0.06  # of a side
_HOPEFUL = 0.7  # correlation below which moving and scaling hardly ever helps
_FAINT = 2.0  # strength of detail, in levels, below which it counts for less
_CLIPPED = 245.0  # a level from which brightening may have cut off what was there

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
    """Where the frames of copies lie in those of their originals."""

    orientation: Numbers  # (N,) of the copies, 0 … 7
    boxes: Doubles  # (N, 4) left, top, right, bottom, as shares of the originals' sides

    def at(self, indices: NDArray[Any]) -> Placement:
        """Index along N."""
        return Placement(self.orientation[indices], self.boxes[indices])

    def then(self, outer: Placement) -> Placement:
        """Copies of copies: first this, then `outer`."""
        start, size = outer.boxes[:, :2], outer.boxes[:, 2:] - outer.boxes[:, :2]
        inner = _turned_boxes(self.boxes, outer.orientation)
        boxes = np.concatenate([start + inner[:, :2] * size, start + inner[:, 2:] * size], axis=1)
        return Placement(_PRODUCTS[self.orientation, outer.orientation], boxes)

    def inverse(self) -> Placement:
        """Where the originals lie in their copies; outside of them where these are cropped."""
        size = self.boxes[:, 2:] - self.boxes[:, :2]
        boxes = np.concatenate([-self.boxes[:, :2] / size, (1 - self.boxes[:, :2]) / size], axis=1)
        back = _INVERSES[self.orientation]
        return Placement(back, _turned_boxes(boxes, back))

    @property
    def cropped(self) -> Flags:
        """(N,) whether the copies lack a part of their originals."""
        return np.asarray((self.boxes[:, 2:] - self.boxes[:, :2]).min(axis=1) < _CROPPED)

    def kinds(self) -> list[str]:
        """In words what was done to the originals."""
        return [_KINDS[kind] for kind in (2 * self.orientation + self.cropped).tolist()]


def _turned_boxes(boxes: Doubles, orientation: Numbers) -> Doubles:
    """Boxes in frames that are transposed and flipped."""
    left, top, right, bottom = np.where((orientation & 4 > 0)[:, None], boxes[:, [1, 0, 3, 2]], boxes).T
    top, bottom = np.where(orientation & 2, (1 - bottom, 1 - top), (top, bottom))
    left, right = np.where(orientation & 1, (1 - right, 1 - left), (left, right))
    return np.stack([left, top, right, bottom], axis=1)


def _turned(greys: Floats, orientation: int) -> Floats:
    """(…, S, S) transposed and flipped."""
    if orientation & 4:
        greys = greys.swapaxes(-1, -2)
    if orientation & 2:
        greys = greys[..., ::-1, :]
    return greys[..., ::-1] if orientation & 1 else greys


def _upright(greys: Floats, orientation: Numbers) -> Floats:
    """Copies (N, S, S) as their originals stand."""
    found = np.empty_like(greys)
    for value in np.unique(orientation).tolist():
        own = orientation == value
        found[own] = _turned(greys[own], value)
    return found


def _product(first: int, second: int) -> int:
    mark = np.arange(4, dtype=np.float32).reshape(2, 2)
    wanted = _turned(_turned(mark, first), second)
    return next(number for number in range(8) if np.array_equal(_turned(mark, number), wanted))


_PRODUCTS = np.array([[_product(first, second) for second in range(8)] for first in range(8)])
_INVERSES = np.argmin(_PRODUCTS, axis=1)


def smoothed(thumbnail: NDArray[np.uint8]) -> Floats:
    """(64, 64) → (63, 63) greys at the corners of pixels, smoothed so that crops and originals are equally sharp."""
    greys = np.pad(thumbnail, 1, mode="edge").astype(np.float32)
    greys = greys[:-3] + 3 * (greys[1:-2] + greys[2:-1]) + greys[3:]
    return np.asarray((greys[:, :-3] + 3 * (greys[:, 1:-2] + greys[:, 2:-1]) + greys[:, 3:]) / 64, np.float32)


def coarse_correlation(originals: Floats, copies: Floats, guess: Placement) -> Doubles:
    """(N,) of greys of (N, 16, 16), where the copies are guessed to lie."""
    values = _sampler(originals, COARSE_SIZE, COARSE_SIZE, 0.5)(guess.boxes)[0]
    return _correlation(values, _upright(copies, guess.orientation))


def compare(originals: Floats, copies: Floats, guess: Placement, *, movable: Flags) -> tuple[Flags, Placement]:
    """Whether copies show the same as their originals or a part of it, and where they lie.

    Args:
        originals: (N, 63, 63), from `smoothed`.
        copies: the same.
        guess: where the copies lie in their originals, to within about a sixteenth of the sides.
        movable: (N,) whether the guess may be improved; not for photos that have too few pixels.
    """
    targets = _upright(copies[:, ::2, ::2], guess.orientation)
    boxes = guess.boxes.copy()
    values, *_ = _sampler(originals, _GRID, THUMBNAIL_SIZE, 1.0)(boxes)
    best = _correlation(values, targets)
    same = _agree(values, targets, best)
    open_ = np.nonzero(~same & movable & (best >= _HOPEFUL))[0]
    current = boxes[open_]
    for _ in range(_STEPS):
        if not len(open_):
            break
        sample = _sampler(originals[open_], _GRID, THUMBNAIL_SIZE, 1.0)
        current = _improved(sample(current), targets[open_], current)
        values, *_ = sample(current)
        found = _correlation(values, targets[open_])
        better = found > best[open_]
        best[open_[better]], boxes[open_[better]] = found[better], current[better]
        same[open_] = better & _agree(values, targets[open_], found)
        going_on = ~same[open_] & better
        open_, current = open_[going_on], current[going_on]
    inside = (boxes[:, :2] > -_SLACK).all(axis=1) & (boxes[:, 2:] < 1 + _SLACK).all(axis=1)
    large = (boxes[:, 2:] - boxes[:, :2] > SMALLEST).all(axis=1)
    return same & inside & large, Placement(guess.orientation, boxes)


def same_proportions(
    original: NDArray[Any], copy: NDArray[Any], placement: Placement, tolerance: float = MAX_RATIO
) -> Flags:
    """(N,) whether the copies have the proportions of their place in the originals.

    `original` and `copy` are (N, 2), width and height in pixels; `tolerance` is a logarithm of the ratio of the two.
    """
    inner = original * (placement.boxes[:, 2:] - placement.boxes[:, :2])
    turned = np.where((placement.orientation & 4 > 0)[:, None], copy[:, ::-1], copy)
    return np.asarray(np.abs(np.log(inner[:, 0] * turned[:, 1] / (inner[:, 1] * turned[:, 0]))) < tolerance)


Sample: TypeAlias = tuple[Floats, Floats, Floats]


def _sampler(greys: Floats, points: int, scale: int, offset: float) -> Callable[[Doubles], Sample]:
    """From boxes (N, 4) to greys there and their change to the right and down, (N, points, points) each.

    Number i of a row or column of `greys` lies at (i + offset) / scale of the side; between them is linear
    interpolation.
    """
    size = greys.shape[1]
    centres = (np.arange(points) + 0.5) / points
    numbers = np.arange(size, dtype=np.float32)

    def weights(start: Doubles, stop: Doubles) -> tuple[Floats, Floats]:
        places = (start[:, None] * (1 - centres) + stop[:, None] * centres) * scale - offset
        places = np.clip(places, 0, size - 1.001).astype(np.float32)
        lower = np.floor(places)[:, :, None]
        first, second = numbers == lower, numbers == lower + 1
        far = places[:, :, None] - lower
        near = (first * (1 - far) + second * far).astype(np.float32)
        return near, second.astype(np.float32) - first.astype(np.float32)

    def sample(boxes: Doubles) -> Sample:
        left, top, right, bottom = boxes.T
        (across, across_slope), (down, down_slope) = weights(left, right), weights(top, bottom)
        rows = down @ greys
        return (
            np.asarray(rows @ across.swapaxes(1, 2), np.float32),
            np.asarray((rows @ across_slope.swapaxes(1, 2)) * scale, np.float32),
            np.asarray((down_slope @ greys @ across.swapaxes(1, 2)) * scale, np.float32),
        )

    return sample


def _improved(sample: Sample, targets: Floats, boxes: Doubles) -> Doubles:
    """One step of least squares in the boxes' sides, brightness and contrast."""
    values, right, down = sample
    count = len(values)
    share = ((np.arange(_GRID) + 0.5) / _GRID).astype(np.float32)
    far_x, far_y = share[None, None, :], share[None, :, None]
    columns = (right * (1 - far_x), down * (1 - far_y), right * far_x, down * far_y, values)
    design = np.stack(columns, axis=1).reshape(count, len(columns), _GRID * _GRID)
    design -= design.mean(axis=2, keepdims=True)  # whatever the brightness
    normal = (design @ design.swapaxes(1, 2)).astype(np.float64) + 1e-3 * np.eye(len(columns))
    wanted = (design @ targets.reshape(count, _GRID * _GRID, 1)).astype(np.float64)
    solved = np.linalg.solve(normal, wanted)[:, :, 0]
    contrast = np.maximum(solved[:, 4:5], 1e-2)
    return np.asarray(boxes + np.clip(solved[:, :4] / contrast, -_LONGEST_STEP, _LONGEST_STEP))


def _agree(values: Floats, targets: Floats, correlation: Doubles) -> Flags:
    """Whether greys and details agree: (N, 32, 32) twice → (N,)."""
    same = np.zeros(len(values), bool)
    hopeful = np.nonzero(correlation >= MIN_CORRELATION)[0]
    if not len(hopeful):
        return same
    one, other = values[hopeful], targets[hopeful]
    # What one has lost to brightening, and what is next to it, says nothing; unless that is nearly all of the picture.
    lost = _widened((one >= _CLIPPED) != (other >= _CLIPPED))
    kept = ~lost | (lost.mean(axis=(1, 2)) > 0.8)[:, None, None]
    details = [greys - _local_mean(greys, 5) for greys in (one, other)]
    # Not at the edges, where a gradient differs from the mean of what is repeated outwards.
    enough = np.minimum(*(detail[:, 2:-2, 2:-2].std(axis=(1, 2)) for detail in details)) >= MIN_DETAIL_CONTRAST
    even = [detail / np.sqrt(_local_mean(detail**2, 9) + _FAINT**2) for detail in details]
    same[hopeful] = (
        enough
        & (_correlation(details[0], details[1], kept) >= MIN_DETAIL)
        & (_correlation(even[0], even[1], kept) >= MIN_EVEN_DETAIL)
    )
    return same


def _widened(mask: Flags) -> Flags:
    """Also the pixels next to those of the mask."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    return np.asarray(rows[:, :, :-2] | rows[:, :, 1:-1] | rows[:, :, 2:])


def _local_mean(greys: Floats, size: int) -> Floats:
    """The mean over size × size points; edges are repeated outwards."""
    edge = size // 2
    padded = np.pad(greys, ((0, 0), (edge, edge), (edge, edge)), mode="edge")
    rows = np.sum([padded[:, k : k + _GRID] for k in range(size)], axis=0)
    return np.asarray(np.sum([rows[:, :, k : k + _GRID] for k in range(size)], axis=0) / size**2, np.float32)


def _correlation(one: Floats, other: Floats, kept: Flags | None = None) -> Doubles:
    """Pearson's, of (N, H, W) twice → (N,); 0 where one is flat. With `kept`, of these pixels alone."""
    if kept is None:
        one, other = (greys - greys.mean(axis=(1, 2), keepdims=True) for greys in (one, other))
    else:
        count = kept.sum(axis=(1, 2))[:, None, None]
        one, other = ((greys - (greys * kept).sum(axis=(1, 2), keepdims=True) / count) * kept for greys in (one, other))
    products = [np.einsum("nij,nij->n", a, b) for a, b in ((one, other), (one, one), (other, other))]
    norm = np.sqrt(products[1] * products[2])
    return np.asarray(products[0] / np.maximum(norm, 1e-3), np.float64)
