"""What limits a model's queue: the number of images in it, and whether a new one can be done before its deadline.

The number is `ServerSettings.queue` (`--queue`); the memory for the bodies of requests has a limit of its own in
`request_body.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

# The expected wait is a mean, and half of all requests wait longer: so much of it must fit before the deadline.
_WAIT_MARGIN = 1.5


class QueueFullError(Exception):
    """The queue has no room for more images, or they would miss their deadline."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"{seconds:.1f} s")
        self.seconds = seconds  # until the queue is empty


@dataclass(frozen=True)
class QueueLoad:
    """A queue at one moment."""

    images: int
    limit: int
    seconds_per_image: float  # of a thread
    threads: int

    @property
    def wait_seconds(self) -> float:
        """Until an image that came now would be taken."""
        return self.images * self.seconds_per_image / self.threads

    def admit(self, count: int, seconds_left: float) -> None:
        """Check for room for more images, whose deadline is `seconds_left` away.

        An empty queue takes all that its limit allows: only a trial shows how long an image takes.

        Raises:
            QueueFullError: they find no room, or would be late.
        """
        needed = _WAIT_MARGIN * self.wait_seconds + self.seconds_per_image
        if self.images + count > self.limit or (self.images and needed > seconds_left):
            raise QueueFullError(self.wait_seconds)
