"""One training step: augmented pixels → forward, loss, backward in micro-batches → optimiser step."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vertebra.card import Preprocessing
from vertebra.models import ConvNet

from .batch_loader import Batch, derive_seed, seed_generators, steps_of_epoch
from .distributed import Distributed, no_sync
from .loss import Loss, to_images
from .metrics import Labels
from .optimizer import build_optimizer, dropout_rates, set_dropout, set_learning_rate, set_training
from .schedule import augmentation_strength
from .step_module import step_module
from .train_settings import Settings


@dataclass
class TrainingStep:
    """Runs training steps; random choices depend only on the seed, the step number and the rank."""

    settings: Settings
    network: ConvNet
    preprocessing: Preprocessing  # `crop_size`: the final image size
    labels: Labels  # of all training photos
    min_images: int  # of a micro-batch, for batch norm
    distributed: Distributed
    trained: nn.Module | None = None  # what takes the maps of frozen stages, if batches have those instead of pixels

    def __post_init__(self) -> None:
        self.optimizer = build_optimizer(self.network, self.settings)
        self.loss = Loss(self.settings, self.labels, self.network.num_classes, self.distributed.device)
        set_training(self.network, self.settings)
        self._layers: nn.Module = self.network if self.trained is None else self.trained
        self.module: Any = step_module(self._layers, self.settings)
        self._dropout_rates = dropout_rates(self.network, self.settings)

    def wrap_ddp(self) -> None:
        """Average gradients over all processes from now on."""
        if self.distributed.size > 1 and self.settings.speed == "fused":
            # On a machine without a compiler it has stayed torch's layers, and DDP needs the same module everywhere.
            fused = self.distributed.all_reduce(torch.tensor(self.module is not self._layers, dtype=torch.int64))
            if fused < self.distributed.size:
                self.module = self._layers
        self.module = self.distributed.wrap_ddp(self.module)

    def __call__(self, batch: Batch, step: int, progress: float, lr: float) -> Tensor:
        """Run step number `step` (from 0) at `progress` (0 to 1) of training.

        Returns the sums of loss, correct predictions and images of this process, (3,), on its device.
        """
        device = self.distributed.device
        # For dropout, stochastic depth, mixup and CutMix.
        seed_generators(derive_seed(self.settings.seed, 2, step, self.distributed.rank))
        strength = augmentation_strength(self.settings, self.preprocessing.crop_size, progress)
        set_dropout(self.network, self._dropout_rates, strength.dropout)
        set_training(self.network, self.settings)
        set_learning_rate(self.optimizer, lr)
        inputs, labels = batch[0].to(device, non_blocking=True), batch[1].to(device)
        images, targets = self._network_inputs(inputs), labels
        if self.trained is None:
            images, targets = self.loss.mix(images, labels, strength.mixup)
        loss_sum, correct, count = sums = torch.zeros(3, dtype=torch.float64, device=device)
        sizes = micro_batch_sizes(len(images), self.settings.accumulate, self.min_images)
        pairs = zip(torch.split(images, sizes), torch.split(targets, sizes), strict=True)
        for number, (x, y) in enumerate(pairs, start=1):
            with no_sync(self.module, last=number == len(sizes)), self._autocast():
                outputs = self.module(x)
                loss = self.loss(outputs, y)  # summed over the images
            # DDP averages gradients over processes; this makes it the mean over the whole batch.
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
        """Return the images of a step over all processes: `np.array_split` gives the first parts one more."""
        count = len(self.labels)
        steps = steps_of_epoch(count, self.settings)
        return count // steps + (step % steps < count % steps)

    def _network_inputs(self, inputs: Tensor) -> Tensor:
        """Pixels, or maps (N, h, w, C) → (N, C, …) in channels-last memory."""
        return to_images(inputs, self.preprocessing) if self.trained is None else inputs.permute(0, 3, 1, 2)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.distributed.device.type, torch.bfloat16)


def micro_batch_sizes(images: int, accumulate: int, min_images: int = 1) -> list[int]:
    """Return the sizes of a step's micro-batches, split evenly, each at least `min_images` if there are as many."""
    parts = max(1, min(accumulate, images // min_images))
    return [images // parts + (number < images % parts) for number in range(parts)]
