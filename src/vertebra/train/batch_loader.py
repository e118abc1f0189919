"""Batches of augmented photos, the same for any number of processes and from any first step.

Random choices depend only on the seed, the epoch and the position in the epoch, so a resumed run gets the same pixels.
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
from vertebra.decoding import Source, open_image
from vertebra.errors import ImageError
from vertebra.sources.photo_place import PhotoPlace

from .augmentation import augment
from .metrics import Labels
from .schedule import augmentation_strength
from .shard_order import shard_numbers, windows_of_epoch
from .shard_prefetch import ShardPrefetch
from .train_settings import Settings


class Sample(NamedTuple):
    """One photo of a batch."""

    photo: int
    epoch: int
    position: int  # in the epoch
    progress: float  # of training, 0 to 1


# uint8 (N, H, W, 3), or with frozen stages their maps, float32 (N, h, w, C); and labels, int64 (N,).
Batch = tuple[Tensor, Tensor]


def derive_seed(*numbers: int) -> int:
    """Return a seed for these numbers; neighbouring numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_generators(seed: int) -> None:
    """Seed torch's generators on the devices in use.

    For a GPU that is not initialised yet, `torch.manual_seed` records a stack trace, which takes a thousand times as
    long as seeding.
    """
    torch.default_generator.manual_seed(seed)
    # Not in a worker forked from a process with a GPU.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def batches_of_epoch(labels: Labels, settings: Settings, epoch: int, shards: Labels | None = None) -> list[Labels]:
    """Return the photo indices of each step, for all processes together, split evenly.

    Each photo is used once; with `balance="sampler"`, photos are drawn so that classes are equally frequent.

    `shards` has the number of each photo's shard (None: each photo is a file of its own). Shards are shuffled, and the
    photos of `shuffle_shards` of them at a time, so that no more are read at once. What is drawn is the same without
    shards, and with no more shards than those so is the order.
    """
    random = np.random.default_rng([settings.seed, 0, epoch])
    count = len(labels)
    if settings.balance == "sampler":
        share = 1 / np.bincount(labels)[labels]
        order = random.choice(count, count, p=share / share.sum())
    else:
        order = random.permutation(count)
    if shards is not None:
        windows = windows_of_epoch(settings, epoch, int(shards.max()) + 1)
        order = order[np.argsort(windows[shards[order]], kind="stable")]
    return [np.asarray(part, np.int64) for part in np.array_split(order, steps_of_epoch(count, settings))]


def steps_of_epoch(photos: int, settings: Settings) -> int:
    """Return the number of steps in an epoch."""
    return math.ceil(photos / settings.batch_size)


@dataclass(eq=False)
class TrainPhotos(Dataset[Any]):
    """Decoded and augmented training photos; for an unreadable one, the reason."""

    paths: Sequence[PhotoPlace]
    labels: Labels
    settings: Settings
    preprocessing: Preprocessing

    def __getitem__(self, sample: Sample) -> Any:
        seed = derive_seed(self.settings.seed, 1, sample.epoch, sample.position)
        try:
            return self.pixels(self.paths[sample.photo], sample.progress, seed), int(self.labels[sample.photo])
        except ImageError as error:
            return str(error)

    def pixels(self, source: Source, progress: float, seed: int, name: str | None = None) -> Tensor:
        """Decode and augment a photo: uint8 (H, W, 3); an ImageError if it is unreadable."""
        strength = augmentation_strength(self.settings, self.preprocessing.crop_size, progress)
        # Even the smallest crop is no smaller than the network's input, so a large JPEG may be decoded reduced. Without
        # random crops the pixels are those of prediction, bit for bit.
        crops = self.settings.augment != "none"
        least = math.ceil(strength.size / math.sqrt(self.settings.crop_scale)) if crops else None
        picture = open_image(source, name=name, at_least=least, decoding=self.preprocessing.decoding)
        # In the main process, the training step owns the random state.
        with torch.random.fork_rng(devices=[]):
            seed_generators(seed)
            return augment(picture, self.settings, self.preprocessing, strength)

    def collate(self, entries: list[Any]) -> Any:
        """Stack the photos of a batch; if one is unreadable, return the reason."""
        if reason := next((entry for entry in entries if isinstance(entry, str)), None):
            return reason
        return torch.stack([image for image, _ in entries]), torch.tensor([label for _, label in entries])


@dataclass(eq=False)
class _BatchSampler(Sampler[list[Sample]]):
    """Endless batches of one process from step `start` on."""

    labels: Labels
    places: Sequence[PhotoPlace]
    settings: Settings
    start: int
    part: tuple[int, int]  # rank, processes
    total: int

    def __iter__(self) -> Iterator[list[Sample]]:
        shards = shard_numbers(self.places)
        prefetch = None if shards is None else ShardPrefetch(self.places, shards, self.settings)
        try:
            yield from self._batches(shards, prefetch)
        finally:
            if prefetch is not None:
                prefetch.stop()

    def _batches(self, shards: Labels | None, prefetch: ShardPrefetch | None) -> Iterator[list[Sample]]:
        rank, size = self.part
        steps = steps_of_epoch(len(self.labels), self.settings)
        epoch, skip = divmod(self.start, steps)
        while True:
            position = 0
            for number, batch in enumerate(batches_of_epoch(self.labels, self.settings, epoch, shards)):
                if number >= skip:
                    if prefetch is not None:
                        prefetch.enter(epoch, batch)
                    progress = min(1.0, (epoch * steps + number) / self.total)
                    yield [
                        Sample(int(photo), epoch, position + i, progress)
                        for i, photo in enumerate(batch.tolist())
                        if i % size == rank
                    ]
                position += len(batch)
            epoch, skip = epoch + 1, 0


def load_batches(
    photos: TrainPhotos, *, start: int, part: tuple[int, int], total: int, workers: int, pin: bool = False
) -> Iterator[Any]:
    """Yield what `photos` collates, from step `start` of `total` on, without end; for an unreadable photo, the reason.

    `part` is the rank and the number of processes. `workers` processes decode; with 0, this one does. Unless the
    settings ask for workers, none are started where they would run the calling script again. `pin` pins memory.
    """
    draws = _BatchSampler(photos.labels, photos.paths, photos.settings, start, part, total)
    context = start_method() if workers else None
    if context == "spawn" and photos.settings.workers is None and not can_import_main():
        workers, context = 0, None
    return iter(
        DataLoader(
            photos,
            batch_sampler=draws,
            num_workers=workers,
            collate_fn=photos.collate,
            worker_init_fn=_ignore_signals,
            multiprocessing_context=context,
            pin_memory=pin,
        )
    )


def start_method() -> str:
    """Return the start method of workers.

    On Linux, fork: fast, without a second copy of torch; workers never use the GPU. macOS libraries are not fork-safe
    and Windows has no fork; there, a worker is a new Python that imports the main module
    (https://docs.pytorch.org/docs/stable/data.html#platform-specific-behaviors).
    """
    return "fork" if sys.platform == "linux" else "spawn"


def can_import_main() -> bool:
    """Return whether a worker can import the main module without running it again.

    True for this package's command and for an interactive interpreter; other scripts may lack an
    `if __name__ == "__main__":`.
    """
    main = sys.modules.get("__main__")
    name = getattr(getattr(main, "__spec__", None), "name", "")
    file = getattr(main, "__file__", None)
    if file is None or name.partition(".")[0] == "vertebra":
        return True
    script = Path(file).parent if Path(file).stem == "__main__" else Path(file)  # of Windows: vertebra.exe/__main__.py
    return script.stem in ("vertebra", "vertebra-script")


def _ignore_signals(worker: int) -> None:
    # Ctrl-C and SIGTERM often reach every process of a group; the main process handles them, and workers end with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
