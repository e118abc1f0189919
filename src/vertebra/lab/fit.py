"""Fit a small network on images in memory with the training steps, the schedule and the batches of `vertebra.train`."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vertebra.malloc import retain_freed_memory
from vertebra.models import ConvNet
from vertebra.pixels import Pixels
from vertebra.preprocessing import Preprocessing
from vertebra.progress import Progress, silent
from vertebra.train.batch_limits import check_photos
from vertebra.train.batch_loader import batches_of_epoch, steps_of_epoch
from vertebra.train.distributed import Distributed
from vertebra.train.loss import to_images
from vertebra.train.metrics import Floats, Labels
from vertebra.train.optimizer import disable_inplace
from vertebra.train.schedule import learning_rate_factor
from vertebra.train.step_metrics import StepMetrics
from vertebra.train.temperature import cross_entropy
from vertebra.train.train_settings import Settings
from vertebra.train.training_step import TrainingStep

from .small_data import Images

_EVALUATED = 512  # images of a batch without gradients


@dataclass(frozen=True)
class Protocol:
    """The budget of a training: SGD with Nesterov's momentum; linear warm-up, then cosine to 0.

    The schedule is that of `vertebra.train`, which has no OneCycle; that too is a warm-up and a cosine.
    """

    epochs: int
    lr: float = 0.1
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2  # share of the epochs

    def settings(self, seed: int, data: str = "digits", model: str = "") -> Settings:
        """These and the seed as the settings of a training run."""
        return Settings(
            data=data, model=model, method="scratch", augment="none", seed=seed, epochs=self.epochs, lr=self.lr,
            batch_size=self.batch_size, momentum=self.momentum, nesterov=self.momentum > 0,
            weight_decay=self.weight_decay, schedule="cosine", warmup=self.warmup * self.epochs,
        )  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """What a training measured: one value an epoch; NaN or infinite where it diverged."""

    seed: int
    train_loss: tuple[float, ...]  # mean over the steps of the epoch, while the weights change
    train_accuracy: tuple[float, ...]  # likewise
    val_loss: tuple[float, ...]  # at the end of the epoch, in evaluation mode
    val_accuracy: tuple[float, ...]  # likewise
    final_train_accuracy: float  # of the training images after the last epoch, in evaluation mode
    seconds: float
    found: Any = None  # what `fit_all` was asked to measure on the trained network

    def epochs_to(self, loss: float) -> float:
        """Epochs until the training loss is this small, interpolated in its logarithm; all epochs if it never is."""
        for number, (before, after) in enumerate(itertools.pairwise((math.inf, *self.train_loss))):
            if after <= loss:
                # Nothing is known of the loss before the first epoch.
                return number + (math.log(before / loss) / math.log(before / after) if number else 1.0)
        return float(len(self.train_loss))


def fit(
    network: ConvNet,
    images: Images,
    protocol: Protocol,
    seed: int,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> Curve:
    """Train the network in place, and leave it in evaluation mode on the device.

    The batches depend on the seed alone. On a CPU the same seed gives the same result, bit for bit: one thread works,
    and torch's random state is left as it was.

    Args:
        network: of as many classes as the images have.
        images: of any size that the network takes.
        protocol: epochs, learning rate, …
        seed: of batches and dropout.
        device: "cpu" or "cuda".
        progress: called with ("training", steps done, steps of all).

    Raises:
        UsageError: the network takes no images of this size.
    """
    start = time.perf_counter()
    device = torch.device(device)
    settings = protocol.settings(seed, images.name, type(network).__name__)
    count = len(images.train_labels)
    total, number = protocol.epochs * steps_of_epoch(count, settings), 0
    least, _ = check_photos(settings, network, images.size, count, processes=1)
    network.to(device)
    network.to(memory_format=torch.channels_last)
    disable_inplace(network)
    pixels, labels = torch.from_numpy(images.train).to(device), torch.from_numpy(images.train_labels).to(device)
    distributed = Distributed(rank=0, size=1, local_size=1, device=device)
    metrics = StepMetrics(time.perf_counter, math.inf)
    train, val = [], []
    with reproducible(), retain_freed_memory():
        step = TrainingStep(settings, network, images.preprocessing, images.train_labels, least, distributed)
        for epoch in range(protocol.epochs):
            metrics.start_epoch()
            for indices in batches_of_epoch(images.train_labels, settings, epoch):
                done = number / total
                lr = protocol.lr * learning_rate_factor(settings, done, protocol.epochs)
                chosen = torch.from_numpy(indices).to(device)
                metrics.add(number + 1, lr, step((pixels[chosen], labels[chosen]), number, done, lr))
                number += 1
                progress("training", number, total)
            metrics.read(wait=True)
            train.append(metrics.means())
            val.append(evaluate(network, images.val, images.val_labels, images.preprocessing))
        _, final = evaluate(network, images.train, images.train_labels, images.preprocessing)
    return Curve(
        seed=seed,
        train_loss=tuple(means["loss"] for means in train),
        train_accuracy=tuple(means["accuracy"] for means in train),
        val_loss=tuple(loss for loss, _ in val),
        val_accuracy=tuple(accuracy for _, accuracy in val),
        final_train_accuracy=final,
        seconds=time.perf_counter() - start,
    )


@contextmanager
def reproducible() -> Iterator[None]:
    """One thread, as sums depend on how they are divided among several, and torch's random state restored afterwards.

    A second thread is hardly faster for maps of 8 × 8 pixels; several trainings side by side are.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Asking for the GPUs' states would initialise them.
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        torch.set_num_threads(threads)


def logits_of(network: ConvNet, pixels: Pixels, preprocessing: Preprocessing) -> Floats:
    """Logits (N, K) of uint8 (N, H, W, 3), in evaluation mode, in which the network stays."""
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [
            network(to_images(torch.from_numpy(pixels[start : start + _EVALUATED]).to(device), preprocessing)).cpu()
            for start in range(0, len(pixels), _EVALUATED)
        ]
    found: Floats = torch.cat(parts).numpy()
    return found


def val_inputs(network: ConvNet, images: Images) -> Tensor:
    """The validation images as the network takes them, (N, 3, H, W), on its device."""
    device = next(network.parameters()).device
    return to_images(torch.from_numpy(images.val).to(device), images.preprocessing)


def evaluate(network: ConvNet, pixels: Pixels, labels: Labels, preprocessing: Preprocessing) -> tuple[float, float]:
    """Cross-entropy and accuracy on these images, in evaluation mode, in which the network stays."""
    logits = logits_of(network, pixels, preprocessing)
    with np.errstate(invalid="ignore"):  # infinite logits of a training that diverged
        return cross_entropy(logits, labels), float(np.mean(logits.argmax(axis=1) == labels))
