"""What batches cost on this machine, and what follows from it: how many images to take, and whether to wait for one.

Written to be changed under the batcher's lock only.
"""

from __future__ import annotations

SIZES = (1, 2, 4, 8, 16)

_GAIN = 0.05  # of an image's time, that a larger batch must save: it makes all of its images wait for the last
_SURE = 0.1  # the same, to leave the size that was found best when nothing else was running
_WEIGHT = 0.1  # of a new measurement, in a running mean
_TRY_EVERY = 128  # batches until the next size is tried again
_GAP = 1.0  # seconds; a longer pause between two requests says nothing about the next


class Costs:
    """Running means: seconds of the network for each size of batch, of all work for an image, between two arrivals."""

    def __init__(self, start: int | None = None) -> None:
        # Images of a batch, until another size has proved to be clearly better.
        self.start = None if start is None else max(size for size in SIZES if size <= start)
        self.batch: dict[int, float] = {}  # size -> seconds of the network
        self.image = 0.02  # seconds of a thread for an image, decoding included
        self.interval = _GAP  # seconds between two images that arrive
        self._last = 0.0
        self._taken = 0

    def measured(self, size: int, inference: float, total: float) -> None:
        """A batch of that size took so many seconds of the network, and so many in all."""
        known = self.batch.get(size)
        self.batch[size] = inference if known is None else known + _WEIGHT * (inference - known)
        self.image += _WEIGHT * (total / size - self.image)

    def arrived(self, now: float, count: int) -> None:
        """So many images came at once."""
        gap = min(_GAP, now - self._last) / count
        self._last = now
        self.interval += _WEIGHT * (gap - self.interval)

    @property
    def best(self) -> int:
        """The smallest size that costs hardly more an image than any other; the next unknown one is worth a try."""
        each = {size: self.batch[size] / size for size in SIZES if size in self.batch}
        if not each:
            return SIZES[0]
        least = min(each.values()) * (1 + _GAIN)
        if self.start is not None and each.get(self.start, least) * (1 - _SURE) < min(each.values()):
            return self.start
        best = next(size for size, seconds in each.items() if seconds <= least)
        larger = next((size for size in SIZES if size > best and size not in each), best)
        return larger if best == max(each) else best

    def size(self, waiting: int) -> int:
        """How many to take where so many wait."""
        self._taken += 1
        limit = self.best
        if self._taken % _TRY_EVERY == 0:
            # What was measured in a bad moment must not hold for ever.
            limit = min(2 * limit, SIZES[-1])
        return max(1, min(waiting, limit))

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
