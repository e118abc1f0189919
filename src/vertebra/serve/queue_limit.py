"""The two limits of a model's queue: the number of images in it, and the time until a new image would be done.

`QueueLoad.require_room` applies both. The number is limited by `ServerSettings.queue` (`--queue`), the time by the
request's deadline (`deadlines.py`). The memory for request bodies is limited in `request_body.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

# The expected wait is a mean, which about half of all requests exceed: this multiple of it must fit.
_WAIT_MARGIN = 1.5


class QueueFullError(Exception):
    """The queue has no room for more images, or they would miss their deadline."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:.1f} s")
        self.seconds = seconds  # until the queue is empty


@dataclass(frozen=True)
class QueueLoad:
    """A queue at one moment."""

    num_images: int
    max_images: int
    seconds_per_image: float  # of one thread
    num_threads: int

    @property
    def wait_seconds(self) -> float:
        """The expected time until a new image would leave the queue."""
        return self.num_images * self.seconds_per_image / self.num_threads

    def require_room(self, count: int, seconds_left: float) -> None:
        """Refuse `count` more images that exceed a limit; their deadline is `seconds_left` away.

        An empty queue ignores the deadline: the measured time of an image may be outdated.

        Raises:
            QueueFullError: there are too many images, or the new ones would be late.
        """
        needed = _WAIT_MARGIN * self.wait_seconds + self.seconds_per_image
        if self.num_images + count > self.max_images or (self.num_images and needed > seconds_left):
            raise QueueFullError(self.wait_seconds)
