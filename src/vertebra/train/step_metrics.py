"""What steps report: read once a GPU has them, added up until an epoch ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Figures(NamedTuple):
    """Of one step, all processes together."""

    step: int  # steps that had been done then, this one included
    lr: float
    loss: float  # summed over the images
    right: float
    images: float


class Pending:
    """Figures of steps, in their order.

    A GPU works behind its host. To ask for a step's figures is to wait for it, and then it has nothing to do until the
    host has prepared the next step; so they are asked for once `lag` more steps have been given to it.
    """

    def __init__(self, lag: int) -> None:
        self._lag = lag
        self._kept: deque[tuple[int, float, Tensor, Any]] = deque()

    def put(self, step: int, lr: float, sums: Tensor) -> None:
        """Of a step that has been given to the device: (3,) loss, right and images."""
        copied: Any = None
        if sums.is_cuda:
            # A copy that is asked for only later would wait for the steps in between.
            host = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True)
            host.copy_(sums, non_blocking=True)
            sums, copied = host, torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._kept.append((step, lr, sums, copied))

    def take(self, *, every: bool) -> Iterator[Figures]:
        """Those that can be read without waiting for long, or every one."""
        while len(self._kept) > (0 if every else self._lag):
            step, lr, sums, copied = self._kept.popleft()
            if copied is not None:
                copied.synchronize()
            yield Figures(step, lr, *sums.tolist())


@dataclass
class Window:
    """Sums since the last epoch began."""

    now: Callable[[], float]
    loss: float = 0.0
    right: float = 0.0
    images: float = 0.0
    start: float = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.now()

    def add(self, figures: Figures) -> None:
        """One step's."""
        self.loss += figures.loss
        self.right += figures.right
        self.images += figures.images

    def means(self) -> dict[str, float]:
        """Nothing before the first step."""
        if not self.images:
            return {}
        return {
            "loss": self.loss / self.images,
            "accuracy": self.right / self.images,
            "images_per_second": self.images / max(self.now() - self.start, 1e-9),
        }
