"""Schedules of learning rate, image size and augmentation, as functions of training progress; the time budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .train_settings import Settings

# Tan & Le 2021, Table 6: initial image size, magnitude and dropout, relative to the final ones.
_FIRST_SIZE, _FIRST_MAGNITUDE, _FIRST_DROPOUT = 128 / 300, 5 / 15, 0.1 / 0.3


@dataclass(frozen=True)
class AugmentationStrength:
    """Image size and strength of augmentation at some point of training."""

    size: int
    magnitude: int
    mixup: float
    dropout: float  # factor of the network's own rates


def augmentation_strength(settings: Settings, size: int, progress: float) -> AugmentationStrength:
    """Return the strength at `progress` (0 to 1) of training; `size` is the final image size in pixels."""
    steps = settings.progressive
    if steps < 2:
        return AugmentationStrength(size, settings.magnitude, settings.mixup, 1.0)
    part = min(int(progress * steps), steps - 1) / (steps - 1)

    def grown(first: float, last: float) -> float:
        return first + (last - first) * part

    # Multiples of 16, which divide evenly at each stage that halves the resolution.
    pixels = size if part == 1 else max(32, 16 * round(grown(_FIRST_SIZE * size, size) / 16))
    magnitude = round(grown(_FIRST_MAGNITUDE * settings.magnitude, settings.magnitude))
    return AugmentationStrength(min(pixels, size), magnitude, grown(0.0, settings.mixup), grown(_FIRST_DROPOUT, 1.0))


def learning_rate_factor(settings: Settings, progress: float, epochs: float) -> float:
    """Return the factor of the learning rate at `progress` (0 to 1) of `epochs` epochs."""
    epoch = progress * epochs
    warmup = min(settings.warmup, epochs / 2)  # at most half of a short training
    if epoch < warmup:
        return (epoch + 1e-3) / warmup
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "step":
        return float(settings.gamma ** int(epoch / settings.step_epochs))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - warmup) / max(epochs - warmup, 1e-9))))


@dataclass
class Budget:
    """Training progress by steps, or by the clock with a time budget; then runs are not reproducible bit for bit."""

    settings: Settings
    steps: int  # of the whole training
    seconds: float  # since the run began
    reserve: float = 0.0  # seconds of the time budget for the last validation, the export and the report

    def progress(self, step: int) -> float:
        """Return the training progress, from 0 to 1."""
        budget = self.settings.seconds
        by_steps = step / self.steps
        if budget is None:
            return min(1.0, by_steps)
        return min(1.0, max(by_steps, self.seconds / max(1.0, budget - self.reserve)))

    def is_spent(self, step: int) -> bool:
        """Return whether the last step has been done."""
        return self.progress(step) >= 1.0
