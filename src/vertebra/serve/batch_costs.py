"""Measured times of batches, from which the size of the next batch and the wait before it are decided.

Callers must hold the batcher's lock.
"""

from __future__ import annotations

from collections import Counter

SIZES = (1, 2, 4, 8, 16)

_MIN_GAIN = 0.1  # share of an image's time that another size must save: times under load are noisy
_MIN_BATCHES = 8  # measured batches of a size before it is compared with others
_EXPLORE_EVERY = 256  # batches between two trials of a neighbouring size
_NEW_WEIGHT = 0.1  # of a new value in a running mean
_MAX_INTERVAL = 1.0  # seconds; a longer pause between requests does not predict the next one


class BatchCosts:
    """Running means, in seconds: inference by batch size, all work per image, and the interval between arrivals."""

    def __init__(self, initial_size: int = 1) -> None:
        # The batch size until another one is measurably better.
        self.initial_size = max(size for size in SIZES if size <= initial_size)
        self.batch_seconds: dict[int, float] = {}  # size -> inference time
        self.seconds_per_image = 0.02  # of one thread, including decoding
        self.arrival_interval = _MAX_INTERVAL  # between two images
        self._last_arrival = 0.0
        self._num_batches = 0
        self._num_measured: Counter[int] = Counter()  # size -> saturated batches
        self._recent: float | None = None  # inference time per image in recent batches of any size
        self._relative: dict[int, float] = {}  # size -> inference time per image, relative to `_recent` at that time

    def record_warm_up(self, size: int, seconds: float) -> None:
        """Record the inference time of a batch that ran alone."""
        self.batch_seconds[size] = seconds
        self.seconds_per_image = self.batch_seconds[min(self.batch_seconds)] / min(self.batch_seconds)

    def record_batch(self, size: int, inference: float, total: float, is_saturated: bool = True) -> None:
        """Record a batch: its size, its inference time, and its total time in seconds.

        A batch is saturated if more images were queued and all threads were busy. Only saturated batches are compared,
        because the small ones at the end of a burst are fast only while cores are idle.
        """
        per_image = inference / size
        self.seconds_per_image = _update_mean(self.seconds_per_image, total / size)
        self._num_measured[size] += is_saturated
        # Batches take longer under load, so the first saturated one replaces the warm-up's time.
        first = is_saturated and self._num_measured[size] == 1
        self.batch_seconds[size] = _update_mean(None if first else self.batch_seconds.get(size), inference)
        if not is_saturated:
            return
        # Relative, because a busy machine slows down all sizes.
        if self._recent is not None:
            self._relative[size] = _update_mean(self._relative.get(size), per_image / self._recent)
        self._recent = per_image if self._recent is None else (self._recent + per_image) / 2

    def record_arrival(self, now: float, count: int) -> None:
        """Record `count` images that arrived together."""
        interval = min(_MAX_INTERVAL, now - self._last_arrival) / count
        self._last_arrival = now
        self.arrival_interval = _update_mean(self.arrival_interval, interval)

    @property
    def best_size(self) -> int:
        """The best measured batch size: the initial one unless another is faster by more than the noise."""
        times = {size: self._relative[size] for size in SIZES if self._num_measured[size] >= _MIN_BATCHES}
        if self.initial_size not in times:
            return self.initial_size
        best = min(times, key=lambda size: times[size])
        return best if times[best] < times[self.initial_size] * (1 - _MIN_GAIN) else self.initial_size

    def next_batch_size(self, num_queued: int, num_idle: int) -> int:
        """The size of the next batch: an equal share for each idle thread, and at most the best size.

        Every 256th batch may have a neighbour of the best size, to measure that.
        """
        self._num_batches += 1
        size = self.best_size
        if self._num_batches % _EXPLORE_EVERY == 0:
            size = size * 2 if self._num_batches // _EXPLORE_EVERY % 2 else size // 2
        share = -(-num_queued // (1 + num_idle))
        return max(1, min(share, size, SIZES[-1]))

    def seconds_worth_waiting(self, num_queued: int) -> float:
        """How long to wait for one more image; 0 if waiting does not pay.

        One more image in a batch of n costs T(n + 1) − T(n) instead of T(1) for a batch of its own. Waiting pays if the
        next image is expected within the time saved. That is rare on processors and common on accelerators.
        """
        known = [self.batch_seconds.get(size) for size in (1, num_queued, num_queued + 1)]
        if num_queued >= self.best_size or None in known:
            return 0.0
        alone, now, more = (value for value in known if value is not None)
        saved = alone + now - more
        return saved if self.arrival_interval < saved else 0.0


def _update_mean(mean: float | None, value: float) -> float:
    """An exponential moving average with a new value; without a mean, the value."""
    return value if mean is None else mean + _NEW_WEIGHT * (value - mean)
