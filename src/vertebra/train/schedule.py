"""What changes while a network trains, as a function of the progress: learning rate, image size, augmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .train_settings import Settings

# Tan & Le 2021, Table 6: of the size, the magnitude and the dropout that are reached at the end.
_FIRST_SIZE, _FIRST_MAGNITUDE, _FIRST_DROPOUT = 128 / 300, 5 / 15, 0.1 / 0.3


@dataclass(frozen=True)
class AugmentationStrength:
    """How large the images are and how strongly they are augmented."""

    size: int
    magnitude: int
    mixup: float
    dropout: float  # share of the network's own


def augmentation_strength(settings: Settings, size: int, progress: float) -> AugmentationStrength:
    """At `progress` (0 to 1) of training, for a network whose input is `size` pixels at the end."""
    steps = settings.progressive
    if steps < 2:
        return AugmentationStrength(size, settings.magnitude, settings.mixup, 1.0)
    part = min(int(progress * steps), steps - 1) / (steps - 1)

    def grown(first: float, last: float) -> float:
        return first + (last - first) * part

    # Multiples of 16: other sizes leave a ragged edge at each stage that halves them.
    pixels = size if part == 1 else max(32, 16 * round(grown(_FIRST_SIZE * size, size) / 16))
    magnitude = round(grown(_FIRST_MAGNITUDE * settings.magnitude, settings.magnitude))
    return AugmentationStrength(min(pixels, size), magnitude, grown(0.0, settings.mixup), grown(_FIRST_DROPOUT, 1.0))


def learning_rate_factor(settings: Settings, progress: float, epochs: float) -> float:
    """What the learning rate is multiplied by at `progress` (0 to 1) of `epochs` epochs."""
    epoch = progress * epochs
    warmup = min(settings.warmup, epochs / 2)  # a short training does not only warm up
    if epoch < warmup:
        return (epoch + 1e-3) / warmup
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "step":
        return float(settings.gamma ** int(epoch / settings.step_epochs))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - warmup) / max(epochs - warmup, 1e-9))))


@dataclass
class Budget:
    """How much of the training is done: by steps, or by time where there is a time budget.

    With a time budget the clock decides, so such a run is not repeated to the bit.
    """

    settings: Settings
    steps: int  # of the whole training
    seconds: float  # since the run began
    reserve: float = 0.0  # seconds of the time budget for the last validation, the export and the report

    def progress(self, step: int) -> float:
        """From 0 to 1."""
        budget = self.settings.seconds
        by_steps = step / self.steps
        if budget is None:
            return min(1.0, by_steps)
        return min(1.0, max(by_steps, self.seconds / max(1.0, budget - self.reserve)))

    def is_spent(self, step: int) -> bool:
        """Whether the last step has been done."""
        return self.progress(step) >= 1.0
