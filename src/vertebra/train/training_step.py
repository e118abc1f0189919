"""One training step: augmented pixels → forward, loss, backward in micro-batches → an update of the weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vertebra.card import Preprocessing
from vertebra.models import ConvNet

from .batch_loader import Batch, seed_generators, seed_of, steps_of_epoch
from .distributed import Distributed, no_sync
from .loss import Loss, to_images
from .metrics import Labels
from .optimizer import dropout_rates, make_optimizer, set_dropout, set_learning_rate, set_training
from .schedule import augmentation_strength
from .train_settings import Settings


@dataclass
class TrainingStep:
    """Called once a step, with the step's number, which everything random in it follows from."""

    settings: Settings
    network: ConvNet
    preprocessing: Preprocessing  # whose `crop_size` the images grow to
    labels: Labels  # of all training photos
    least_images: int  # of a micro-batch, so that batch norm has statistics
    distributed: Distributed

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.network, self.settings)
        self.loss = Loss(self.settings, self.labels, self.network.num_classes, self.distributed.device)
        self.module: Any = torch.compile(self.network) if self.settings.compile else self.network
        self._dropout_rates = dropout_rates(self.network, self.settings)

    def wrap_ddp(self) -> None:
        """From here on, gradients are averaged over all processes."""
        self.module = self.distributed.wrap_ddp(self.module)

    def __call__(self, batch: Batch, step: int, progress: float, lr: float) -> Tensor:
        """Forward, backward, update, in the step of that number (from 0) at a `progress` of training from 0 to 1.

        Returns the sum of the losses, correct predictions and images of this process: (3,), on its device.
        """
        device = self.distributed.device
        # Dropout, stochastic depth and mixing follow from the step's number.
        seed_generators(seed_of(self.settings.seed, 2, step, self.distributed.rank))
        strength = augmentation_strength(self.settings, self.preprocessing.crop_size, progress)
        set_dropout(self.network, self._dropout_rates, strength.dropout)
        set_training(self.network, self.settings)
        set_learning_rate(self.optimizer, lr)
        pixels, labels = batch[0].to(device, non_blocking=True), batch[1].to(device)
        images, targets = self.loss.mixed(to_images(pixels, self.preprocessing), labels, strength.mixup)
        loss_sum, correct, count = sums = torch.zeros(3, dtype=torch.float64, device=device)
        sizes = micro_batches(len(images), self.settings.accumulate, self.least_images)
        pairs = zip(torch.split(images, sizes), torch.split(targets, sizes), strict=True)
        for number, (x, y) in enumerate(pairs, start=1):
            with no_sync(self.module, last=number == len(sizes)), self._autocast():
                outputs = self.module(x)
                loss = self.loss(outputs, y)  # summed over the images
            # The processes' gradients are averaged, so the sum over all of them is divided by the whole batch.
            torch.autograd.backward(loss * (self.distributed.size / self.batch_size(step)))
            logits = (outputs if isinstance(outputs, Tensor) else outputs.logits).detach()
            truth = y if y.ndim == 1 else y.argmax(1)
            loss_sum += loss.detach()
            correct += (logits.argmax(1) == truth).sum()
            count += len(x)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums

    def batch_size(self, step: int) -> int:
        """Images of all processes in that step: `np.array_split` gives the first parts one more."""
        count = len(self.labels)
        steps = steps_of_epoch(count, self.settings)
        return count // steps + (step % steps < count % steps)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.distributed.device.type, torch.bfloat16)


def micro_batches(images: int, accumulate: int, least: int = 1) -> list[int]:
    """Sizes of a step's micro-batches: as equal as can be, and none below `least` where there are as many images."""
    parts = max(1, min(accumulate, images // least))
    return [images // parts + (number < images % parts) for number in range(parts)]
