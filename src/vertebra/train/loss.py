"""The loss of a training step, mixup and CutMix, and the normalisation of its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vertebra.card import Preprocessing
from vertebra.errors import require_extra

from .metrics import Labels
from .train_settings import Settings


class Loss:
    """Cross-entropy summed over a batch, with label smoothing, class weights, mixup and CutMix."""

    def __init__(self, settings: Settings, labels: Labels, classes: int, device: torch.device) -> None:
        self.smoothing = settings.label_smoothing
        self.weight: Tensor | None = None
        if settings.balance == "loss":
            counts = np.bincount(labels, minlength=classes)
            # Weights have a mean of 1 over the photos, so that the learning rate keeps its meaning. A class without
            # training photos has 1: label smoothing uses its weight too.
            weight = np.where(counts > 0, len(labels) / np.maximum(counts, 1) / max(1, (counts > 0).sum()), 1.0)
            self.weight = torch.from_numpy(weight).float().to(device)
        self.cutmix = settings.cutmix
        self.classes = classes

    def mix(self, images: Tensor, labels: Tensor, mixup: float) -> tuple[Tensor, Tensor]:
        """Apply mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), chosen at random among those enabled."""
        chosen = [(name, alpha) for name, alpha in (("MixUp", mixup), ("CutMix", self.cutmix)) if alpha > 0]
        if not chosen:
            return images, labels
        with require_extra("train", "mixing images"):
            from torchvision.transforms import v2
        name, alpha = chosen[int(torch.randint(len(chosen), ()))]
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = getattr(v2, name)(
            alpha=alpha, num_classes=self.classes
        )
        images, targets = mix(images, labels)
        return images.contiguous(memory_format=torch.channels_last), targets

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        """Loss of logits, or of GoogLeNet's three outputs; the auxiliary ones weigh 0.3 (Szegedy et al. 2015, 5)."""
        if isinstance(outputs, Tensor):
            return self._cross_entropy(outputs, targets)
        others = [o for o in (outputs.aux_logits2, outputs.aux_logits1) if o is not None]
        total = self._cross_entropy(outputs.logits, targets)
        for other in others:
            total = total + 0.3 * self._cross_entropy(other, targets)
        return total

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(
            logits.float(), targets, weight=self.weight, label_smoothing=self.smoothing, reduction="none"
        ).sum()


def to_images(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 (N, H, W, 3) → float32 (N, 3, H, W) in channels-last memory, normalised."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(1, 3, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    # NHWC is channels-last memory already, so nothing is copied.
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(mean).div_(std)
