"""What batches cost on this machine, and what follows from it: how many images to take, and whether to wait for one.

Written to be changed under the batcher's lock only.
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
        self.batch: dict[int, float] = {}  # size -> seconds of the network
        self.image = 0.02  # seconds of a thread for an image, decoding included
        self.interval = _GAP  # seconds between two images that arrive
        self._last = 0.0
        self._taken = 0
        self._times: Counter[int] = Counter()  # batches of each size, the warm-up's left out
        self._pace: float | None = None  # seconds of the network for an image, just now, in batches of whatever size
        self._relative: dict[int, float] = {}  # size -> the same in batches of that size, over the pace at that time

    def warm(self, size: int, seconds: float) -> None:
        """A batch of that size took so many seconds of the network while nothing else ran."""
        self.batch[size] = seconds
        self.image = self.batch[min(self.batch)] / min(self.batch)

    def measured(self, size: int, inference: float, total: float, crowded: bool = True) -> None:
        """A batch of that size took so many seconds of the network, and so many in all.

        `crowded`: images waited beside it, and every thread was at work. Only such batches are compared: what is left
        at the end of a rush comes in small ones, which are quick because the cores are free.
        """
        each = inference / size
        self.image = _mean(self.image, total / size)
        self._times[size] += crowded
        # Under load a batch takes longer than in the warm-up, so that the first of its size starts anew.
        first = crowded and self._times[size] == 1
        self.batch[size] = _mean(None if first else self.batch.get(size), inference)
        if not crowded:
            return
        # A busy minute makes all sizes slow, and those that ran in it must not look worse for it.
        if self._pace is not None:
            self._relative[size] = _mean(self._relative.get(size), each / self._pace)
        self._pace = each if self._pace is None else (self._pace + each) / 2

    def arrived(self, now: float, count: int) -> None:
        """So many images came at once."""
        gap = min(_GAP, now - self._last) / count
        self._last = now
        self.interval = _mean(self.interval, gap)

    @property
    def best(self) -> int:
        """The size to take where enough wait: the first one, unless another saves clearly more than noise."""
        each = {size: self._relative[size] for size in SIZES if self._times[size] >= _TRUSTED}
        if self.start not in each:
            return self.start
        best = min(each, key=lambda size: each[size])
        return best if each[best] < each[self.start] * (1 - _GAIN) else self.start

    def size(self, waiting: int) -> int:
        """How many to take where so many wait; now and then a size beside the best, to see what it costs."""
        self._taken += 1
        limit = self.best
        if self._taken % _TRY_EVERY == 0:
            limit = limit * 2 if self._taken // _TRY_EVERY % 2 else limit // 2
        return max(1, min(waiting, limit, SIZES[-1]))

    def worth_waiting(self, waiting: int) -> float:
        """Seconds to wait for one more image, 0 where that does not pay.

        One more in the batch costs T(n + 1) − T(n) instead of T(1) for a batch of its own. Waiting pays where the next
        image is likely to come within what is saved. Processors save next to nothing; accelerators do.
        """
        known = [self.batch.get(size) for size in (1, waiting, waiting + 1)]
        if waiting >= self.best or None in known:
            return 0.0
        alone, now, more = (value for value in known if value is not None)
        saved = alone + now - more
        return saved if self.interval < saved else 0.0


def _mean(before: float | None, value: float) -> float:
    """A running mean with a new value; the first one is the mean."""
    return value if before is None else before + _WEIGHT * (value - before)
