"""Loss and accuracy of training steps, read without synchronising the GPU, summed over an epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Step:
    """The sums of one step over all processes."""

    step: int  # number of steps done, including this one
    lr: float
    sums: Tensor  # (3,) loss, correct predictions and images; valid once `copied` has occurred
    copied: Any  # a CUDA event; None: computed on the CPU

    @property
    def is_ready(self) -> bool:
        """Whether `read` need not wait."""
        return self.copied is None or bool(self.copied.query())

    @property
    def mean_loss(self) -> float:
        """Mean loss per image."""
        loss, _, images = self.sums.tolist()
        return float(loss / max(images, 1))


class StepMetrics:
    """Sums since the start of the epoch.

    Reading the sums of the latest step would synchronise the GPU, which then idles until the host has prepared the next
    step. So `read(wait=False)`, for the display, takes only the steps that have arrived; decisions and the log use
    `read(wait=True)`.
    """

    def __init__(self, now: Callable[[], float], highest_loss: float) -> None:
        self._now, self._highest_loss = now, highest_loss
        self._pending: deque[Step] = deque()
        self.diverged: Step | None = None  # the first step whose loss is above `highest_loss` or NaN
        self.start_epoch()

    def start_epoch(self, sums: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        """Reset the sums, or continue an epoch with those of its steps before."""
        self._sums = torch.tensor(sums, dtype=torch.float64)
        self._start, self._images_before = self._now(), sums[2]

    @property
    def sums(self) -> list[float]:
        """Loss, correct predictions and images of the steps of the epoch that have been read."""
        found: list[float] = self._sums.tolist()
        return found

    def add(self, step: int, lr: float, sums: Tensor) -> None:
        """Add the sums of a launched step: (3,) loss, correct predictions and images."""
        copied: Any = None
        if sums.is_cuda:
            # Copied now: a later copy would wait for the steps in between.
            host = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True)
            host.copy_(sums, non_blocking=True)
            sums, copied = host, torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._pending.append(Step(step, lr, sums, copied))

    def read(self, *, wait: bool) -> None:
        """Read the sums of the steps that are done, or wait for all steps."""
        while self._pending and (wait or self._pending[0].is_ready):
            step = self._pending.popleft()
            if step.copied is not None:
                step.copied.synchronize()
            if self.diverged is None and not step.mean_loss <= self._highest_loss:
                self.diverged = step
            self._sums += step.sums

    def means(self) -> dict[str, float]:
        """Return the means of the epoch; empty before the first step has been read."""
        loss, correct, images = self.sums
        if not images:
            return {}
        rate = (images - self._images_before) / max(self._now() - self._start, 1e-9)
        return {"loss": loss / images, "accuracy": correct / images, "images_per_second": rate}
