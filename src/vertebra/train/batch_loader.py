"""Photos → batches, the same ones in the same order whatever the number of processes and wherever one starts.

Every random choice follows from the seed, the epoch and the place in the epoch alone, so a run that goes on after
having been killed gets the pixels that it would have got.
"""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vertebra.card import Preprocessing
from vertebra.decoding import open_image
from vertebra.errors import ImageError

from .augmentation import augment
from .metrics import Labels
from .schedule import augmentation_strength
from .train_settings import Settings


class Sample(NamedTuple):
    """One photo of a batch."""

    photo: int
    epoch: int
    place: int  # in the epoch
    progress: float  # of training, 0 to 1


Batch = tuple[Tensor, Tensor]  # uint8 (N, H, W, 3) and int64 (N,)


def seed_of(*numbers: int) -> int:
    """Numbers that are near give seeds that are not."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_generators(seed: int) -> None:
    """What `torch.manual_seed` does, for the devices that are in use.

    For a GPU that is not in use yet, that one keeps the seed together with a printed stack, which takes a thousand
    times as long as seeding does.
    """
    torch.default_generator.manual_seed(seed)
    # Not so in a worker that was forked from a process with a GPU.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def batches_of_epoch(labels: Labels, settings: Settings, epoch: int) -> list[Labels]:
    """The photos of each step, of all processes together: as many in each, but for one more or less.

    Each photo comes once; with `balance="sampler"` each class as often as any other, and as many photos in all.
    """
    random = np.random.default_rng([settings.seed, 0, epoch])
    count = len(labels)
    if settings.balance == "sampler":
        share = 1 / np.bincount(labels)[labels]
        order = random.choice(count, count, p=share / share.sum())
    else:
        order = random.permutation(count)
    return [np.asarray(part, np.int64) for part in np.array_split(order, steps_of_epoch(count, settings))]


def steps_of_epoch(photos: int, settings: Settings) -> int:
    """Steps that an epoch takes."""
    return math.ceil(photos / settings.batch_size)


@dataclass(eq=False)
class TrainPhotos(Dataset[Any]):
    """Decoded and augmented; what cannot be read gives its reason instead."""

    paths: Sequence[Path]
    labels: Labels
    settings: Settings
    preprocessing: Preprocessing

    def __getitem__(self, sample: Sample) -> tuple[Tensor, int] | str:
        strength = augmentation_strength(self.settings, self.preprocessing.crop_size, sample.progress)
        # A crop of the smallest share is no smaller than the network's input, so a large JPEG may be decoded reduced.
        # Without random crops the pixels are those of prediction, bit for bit.
        crops = self.settings.augment != "none"
        least = math.ceil(strength.size / math.sqrt(self.settings.crop_scale)) if crops else None
        try:
            picture = open_image(self.paths[sample.photo], at_least=least, decoding=self.preprocessing.decoding)
            # In the main process the state belongs to the training step.
            with torch.random.fork_rng(devices=[]):
                seed_generators(seed_of(self.settings.seed, 1, sample.epoch, sample.place))
                return augment(picture, self.settings, self.preprocessing, strength), int(self.labels[sample.photo])
        except ImageError as error:
            return str(error)


@dataclass(eq=False)
class _BatchSampler(Sampler[list[Sample]]):
    """The batches of one process, from a step on and without an end."""

    labels: Labels
    settings: Settings
    start: int
    part: tuple[int, int]  # rank, processes
    total: int

    def __iter__(self) -> Iterator[list[Sample]]:
        rank, size = self.part
        steps = steps_of_epoch(len(self.labels), self.settings)
        epoch, skip = divmod(self.start, steps)
        while True:
            place = 0
            for number, batch in enumerate(batches_of_epoch(self.labels, self.settings, epoch)):
                if number >= skip:
                    progress = min(1.0, (epoch * steps + number) / self.total)
                    yield [
                        Sample(int(photo), epoch, place + i, progress)
                        for i, photo in enumerate(batch.tolist())
                        if i % size == rank
                    ]
                place += len(batch)
            epoch, skip = epoch + 1, 0


def stream(
    photos: TrainPhotos, *, start: int, part: tuple[int, int], total: int, workers: int, pin: bool = False
) -> Iterator[Batch | str]:
    """Batches from step `start` of `total` on, without an end; the reason where a photo cannot be read.

    `part` is the number of this process, and how many there are; `workers` processes decode, or this one where that is
    0. Where they would run the script again that has called this, and the settings do not ask for them, there are none.
    `pin` keeps batches where a GPU fetches them fastest.
    """
    draws = _BatchSampler(photos.labels, photos.settings, start, part, total)
    context = start_method() if workers else None
    if context == "spawn" and photos.settings.workers is None and not is_guarded():
        workers, context = 0, None
    return iter(
        DataLoader(
            photos,
            batch_sampler=draws,
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_ignore_signals,
            multiprocessing_context=context,
            pin_memory=pin,
        )
    )


def start_method() -> str:
    """How workers are started.

    On Linux by a fork: a worker is there at once and holds no second copy of torch; it never touches a GPU. On macOS
    the system's libraries do not stand a fork, and Windows has none: there a worker is a new Python, which imports the
    main module once more (https://docs.pytorch.org/docs/stable/data.html#platform-specific-behaviors).
    """
    return "fork" if sys.platform == "linux" else "spawn"


def is_guarded() -> bool:
    """Whether a new Python can import the main module without doing what it does once more.

    That is known of this package's command, and of what is typed into an interpreter; not of other scripts, whose
    `if __name__ == "__main__":` cannot be seen from here.
    """
    main = sys.modules.get("__main__")
    name = getattr(getattr(main, "__spec__", None), "name", "")
    file = getattr(main, "__file__", None)
    if file is None or name.partition(".")[0] == "vertebra":
        return True
    script = Path(file).parent if Path(file).stem == "__main__" else Path(file)  # of Windows: vertebra.exe/__main__.py
    return script.stem in ("vertebra", "vertebra-script")


def _collate(entries: list[tuple[Tensor, int] | str]) -> Batch | str:
    good = [entry for entry in entries if not isinstance(entry, str)]
    if len(good) < len(entries):
        return next(entry for entry in entries if isinstance(entry, str))
    return torch.stack([image for image, _ in good]), torch.tensor([label for _, label in good])


def _ignore_signals(worker: int) -> None:
    # Ctrl-C and a polite kill often reach every process of a group; the main one decides what happens then, and
    # workers end with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
