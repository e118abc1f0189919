"""Extents of the activations of a float graph over photos, and the ranges that int8 uses of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .onnx_model import Array

_BINS = 2048
# Values of a tensor sampled per photo: enough for a histogram.
_VALUES = 60_000
# Tensors with less than this extent are all zero: float32 cannot divide it into bins.
_MIN_EXTENT = 1e-30
# Fractions of the extent to try as a range: clipping rare values allows finer steps.
_FRACTIONS = np.linspace(0.3, 1.0, 36)
_LEVELS = np.arange(256)


@dataclass(frozen=True)
class Extent:
    """Smallest and largest value of a tensor, for each channel (C,)."""

    low: Array
    high: Array


class ExtentObserver:
    """Extents of tensors (1, C, …) over all photos."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.extents: dict[str, Extent] = {}

    def reduce(self, photo: int, tensors: Mapping[str, Array]) -> dict[str, Extent]:
        """Compute the extents of one photo."""
        rows = {name: tensors[name].reshape(tensors[name].shape[1], -1) for name in self.names}
        return {name: Extent(row.min(1), row.max(1)) for name, row in rows.items()}

    def add(self, parts: Sequence[Mapping[str, Extent]]) -> None:
        """Widen the extents by those of some photos."""
        for name in self.names:
            known = [self.extents[name]] if name in self.extents else []
            all_of = [*known, *(part[name] for part in parts)]
            self.extents[name] = Extent(
                np.min([extent.low for extent in all_of], axis=0), np.max([extent.high for extent in all_of], axis=0)
            )


class HistogramObserver:
    """Histograms of tensors over all photos, between their extents."""

    def __init__(self, extents: Mapping[str, Extent]) -> None:
        self.names = list(extents)
        self._limits = {name: (float(e.low.min()), float(e.high.max())) for name, e in extents.items()}
        self._counts = {name: np.zeros(_BINS) for name in extents}

    def reduce(self, photo: int, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Count a sample of the values of one photo in each bin."""
        counts = {}
        for name in self.names:
            low, high = self._limits[name]
            if high - low > _MIN_EXTENT:
                values = tensors[name].ravel()
                values = values[:: max(1, values.size // _VALUES) | 1]
                # In float64: float32 has no 2,048 numbers between a gate's 0.5 and the next.
                bins = np.subtract(values, low, dtype=np.float64)
                bins *= _BINS / (high - low)
                counts[name] = np.bincount(np.clip(bins, 0, _BINS - 1).astype(np.intp), minlength=_BINS)
        return counts

    def add(self, parts: Sequence[Mapping[str, Array]]) -> None:
        """Add the counts of some photos."""
        for part in parts:
            for name, counts in part.items():
                self._counts[name] += counts

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Compute for each tensor the range whose clipping and rounding to 256 levels has the least squared error."""
        return {name: best_range(*self._limits[name], self._counts[name]) for name in self.names}


def best_range(low: float, high: float, counts: Array) -> tuple[float, float]:
    """Of ranges inside the extent, the one with the least squared error of a histogram over it, as `Scale` rounds.

    The values that a level stands for are neighbours, so that their number, sum and sum of squares, differences of
    cumulative sums, give their error: 256 terms a range instead of 2,048.
    """
    if high - low <= _MIN_EXTENT:
        return low, high
    # Positions are in bins from the lower end: then nothing is cancelled where a range is narrow and far from 0.
    width = (high - low) / _BINS
    centres = np.arange(_BINS) + 0.5
    number, total, squares = (np.concatenate([[0.0], np.cumsum(counts * centres**power)]) for power in (0, 1, 2))
    starts = low * _FRACTIONS if low < 0 else np.zeros(1)
    stops = high * _FRACTIONS if high > 0 else np.zeros(1)
    best, least = (low, high), np.inf
    for start in starts:
        # The scales and zero points of `Scale.of_range`, for all ends at once.
        bottom, top = min(start, 0.0), np.maximum(stops, 0.0)
        scale = np.maximum((top - bottom) / 255, 1e-8)[:, None]
        zero_point = np.rint(-bottom / scale)
        levels = ((_LEVELS - zero_point) * scale - low) / width
        ends = np.ceil(((_LEVELS[:-1] + 0.5 - zero_point) * scale - low) / width - 0.5).clip(0, _BINS).astype(np.intp)
        ends = np.pad(ends, ((0, 0), (1, 1)), constant_values=((0, 0), (0, _BINS)))
        n, t, s = (np.diff(sums[ends], axis=1) for sums in (number, total, squares))
        errors = (s - 2 * levels * t + levels**2 * n).sum(1)
        i = int(errors.argmin())
        if errors[i] < least:
            best, least = (float(start), float(stops[i])), float(errors[i])
    return best
