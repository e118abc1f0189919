"""Loss and accuracy of training steps, read without making a GPU wait, summed over an epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class StepFigures(NamedTuple):
    """Of one step, all processes together."""

    step: int  # steps that had been done then, this one included
    lr: float
    loss: float  # summed over the images
    correct: float
    images: float

    @property
    def mean_loss(self) -> float:
        """Of an image."""
        return self.loss / max(self.images, 1)


@dataclass
class _Pending:
    step: int
    lr: float
    sums: Tensor  # on the host, once `copied`
    copied: Any  # a CUDA event; None: there was nothing to copy

    @property
    def is_ready(self) -> bool:
        return self.copied is None or bool(self.copied.query())


class StepMetrics:
    """Sums since the epoch began.

    A GPU works behind its host. To ask for a step's figures is to wait for it, and then the GPU has nothing to do until
    the host has prepared the next step. So `read(wait=False)` takes only what has arrived, which serves the display.
    What the run does next, and what it writes, follows from `read(wait=True)` alone.
    """

    def __init__(self, now: Callable[[], float], highest_loss: float) -> None:
        self._now, self._highest_loss = now, highest_loss
        self._pending: deque[_Pending] = deque()
        self.diverged: StepFigures | None = None  # the first step whose loss is above `highest_loss` or NaN
        self.start_epoch()

    def start_epoch(self) -> None:
        """Begin new sums."""
        self._loss = self._correct = self._images = 0.0
        self._start = self._now()

    def add(self, step: int, lr: float, sums: Tensor) -> None:
        """Of a step that has been given to the device: (3,) loss, correct and images."""
        copied: Any = None
        if sums.is_cuda:
            # A copy that is asked for only later would wait for the steps in between.
            host = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True)
            host.copy_(sums, non_blocking=True)
            sums, copied = host, torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._pending.append(_Pending(step, lr, sums, copied))

    def read(self, *, wait: bool) -> None:
        """Add up the figures of the steps that are done, or of all steps."""
        while self._pending and (wait or self._pending[0].is_ready):
            pending = self._pending.popleft()
            if pending.copied is not None:
                pending.copied.synchronize()
            figures = StepFigures(pending.step, pending.lr, *pending.sums.tolist())
            if self.diverged is None and not figures.mean_loss <= self._highest_loss:
                self.diverged = figures
            self._loss += figures.loss
            self._correct += figures.correct
            self._images += figures.images

    def means(self) -> dict[str, float]:
        """Nothing before the first step that has been read."""
        if not self._images:
            return {}
        return {
            "loss": self._loss / self._images,
            "accuracy": self._correct / self._images,
            "images_per_second": self._images / max(self._now() - self._start, 1e-9),
        }
