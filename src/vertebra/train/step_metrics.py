"""Loss and accuracy of training steps, read without making a GPU wait, summed over an epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Step:
    """The figures of one step, all processes together."""

    step: int  # steps that had been done then, this one included
    lr: float
    sums: Tensor  # (3,) loss, correct predictions and images; on the host, once `copied`
    copied: Any  # a CUDA event; None: there was nothing to copy

    @property
    def is_ready(self) -> bool:
        """Whether `read` would not wait."""
        return self.copied is None or bool(self.copied.query())

    @property
    def mean_loss(self) -> float:
        """Of an image."""
        loss, _, images = self.sums.tolist()
        return float(loss / max(images, 1))


class StepMetrics:
    """Sums since the epoch began.

    A GPU works behind its host. To ask for a step's figures is to wait for it, and then the GPU has nothing to do until
    the host has prepared the next step. So `read(wait=False)` takes only what has arrived, which serves the display.
    What the run does next, and what it writes, follows from `read(wait=True)` alone.
    """

    def __init__(self, now: Callable[[], float], highest_loss: float) -> None:
        self._now, self._highest_loss = now, highest_loss
        self._pending: deque[Step] = deque()
        self.diverged: Step | None = None  # the first step whose loss is above `highest_loss` or NaN
        self.start_epoch()

    def start_epoch(self) -> None:
        """Begin new sums."""
        self._sums = torch.zeros(3, dtype=torch.float64)
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
        self._pending.append(Step(step, lr, sums, copied))

    def read(self, *, wait: bool) -> None:
        """Add up the figures of the steps that are done, or of all steps."""
        while self._pending and (wait or self._pending[0].is_ready):
            step = self._pending.popleft()
            if step.copied is not None:
                step.copied.synchronize()
            if self.diverged is None and not step.mean_loss <= self._highest_loss:
                self.diverged = step
            self._sums += step.sums

    def means(self) -> dict[str, float]:
        """Nothing before the first step that has been read."""
        loss, correct, images = self._sums.tolist()
        if not images:
            return {}
        seconds = max(self._now() - self._start, 1e-9)
        return {"loss": loss / images, "accuracy": correct / images, "images_per_second": images / seconds}
