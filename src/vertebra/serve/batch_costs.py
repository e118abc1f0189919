"""What batches cost on this machine, as measured, and so how many images the next one takes and how long it waits.

To be changed under the batcher's lock only.
"""

from __future__ import annotations

from collections import Counter

SIZES = (1, 2, 4, 8, 16)

_GAIN = 0.1  # of an image's time, that another size must save: times under load are noisy
_TRUSTED = 8  # batches of a size, before its time is compared with another's
_TRY_EVERY = 256  # batches, until a neighbouring size is tried: larger ones make all of their images wait
_WEIGHT = 0.1  # of a new measurement, in a running mean
_GAP = 1.0  # seconds; a longer pause between two requests says nothing about the next


class BatchCosts:
    """Running means: seconds of the network for each size of batch, of all work for an image, between two arrivals."""

    def __init__(self, start: int = 1) -> None:
        # Images of a batch, until another size has proved to be better.
        self.start = max(size for size in SIZES if size <= start)
        self.batch_seconds: dict[int, float] = {}  # size -> seconds of the network
        self.seconds_per_image = 0.02  # seconds of a thread for an image, decoding included
        self.arrival_interval = _GAP  # seconds between two images that arrive
        self._last = 0.0
        self._taken = 0
        self._times: Counter[int] = Counter()  # batches of each size, the warm-up's left out
        self._pace: float | None = None  # seconds of the network for an image, just now, in batches of whatever size
        self._relative: dict[int, float] = {}  # size -> the same in batches of that size, over the pace at that time

    def warm(self, size: int, seconds: float) -> None:
        """A batch of that size took so many seconds of the network while nothing else ran."""
        self.batch_seconds[size] = seconds
        self.seconds_per_image = self.batch_seconds[min(self.batch_seconds)] / min(self.batch_seconds)

    def measured(self, size: int, inference: float, total: float, is_saturated: bool = True) -> None:
        """A batch of that size took so many seconds of the network, and so many in all.

        `is_saturated`: images were queued beside it, and every thread was at work. Only such batches are compared: what
        is left at the end of a rush comes in small ones, which are quick because the cores are free.
        """
        each = inference / size
        self.seconds_per_image = _mean(self.seconds_per_image, total / size)
        self._times[size] += is_saturated
        # Under load a batch takes longer than in the warm-up, so that the first of its size starts anew.
        first = is_saturated and self._times[size] == 1
        self.batch_seconds[size] = _mean(None if first else self.batch_seconds.get(size), inference)
        if not is_saturated:
            return
        # A busy minute makes all sizes slow, and those that ran in it must not look worse for it.
        if self._pace is not None:
            self._relative[size] = _mean(self._relative.get(size), each / self._pace)
        self._pace = each if self._pace is None else (self._pace + each) / 2

    def arrived(self, now: float, count: int) -> None:
        """So many images came at once."""
        gap = min(_GAP, now - self._last) / count
        self._last = now
        self.arrival_interval = _mean(self.arrival_interval, gap)

    @property
    def best(self) -> int:
        """The size to take where enough images are queued: the first, unless another saves clearly more than noise."""
        each = {size: self._relative[size] for size in SIZES if self._times[size] >= _TRUSTED}
        if self.start not in each:
            return self.start
        best = min(each, key=lambda size: each[size])
        return best if each[best] < each[self.start] * (1 - _GAIN) else self.start

    def take(self, images: int, idle_threads: int) -> int:
        """How many of the queued images make the next batch: idle threads get as many, and none more than is best.

        Now and then it is a size beside the best one, to measure what that costs.
        """
        self._taken += 1
        size = self.best
        if self._taken % _TRY_EVERY == 0:
            size = size * 2 if self._taken // _TRY_EVERY % 2 else size // 2
        share = -(-images // (1 + idle_threads))
        return max(1, min(share, size, SIZES[-1]))

    def worth_waiting(self, images: int) -> float:
        """Seconds to wait for one more than the queued images, 0 where that does not pay.

        One more in the batch costs T(n + 1) − T(n) instead of T(1) for a batch of its own. Waiting pays where the next
        image is likely to come within what is saved. Processors save next to nothing; accelerators do.
        """
        known = [self.batch_seconds.get(size) for size in (1, images, images + 1)]
        if images >= self.best or None in known:
            return 0.0
        alone, now, more = (value for value in known if value is not None)
        saved = alone + now - more
        return saved if self.arrival_interval < saved else 0.0


def _mean(before: float | None, value: float) -> float:
    """A running mean with a new value; the first one is the mean."""
    return value if before is None else before + _WEIGHT * (value - before)
