"""The gradients of a step, in any number of micro-batches and processes."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
import torch
from tiny_trainer import SIZE, Tiny, trainer_of
from torch import nn

from vertebra.train.batch_loader import batches_of_epoch
from vertebra.train.distributed import Distributed
from vertebra.train.training_step import micro_batch_sizes


class Mean(Tiny):
    """Of the colours; the fastest network there is."""

    def forward(self, x):
        return self.fc(x.mean((2, 3)).repeat(1, 3)[:, :8])


class Replica(nn.Module):
    """As DistributedDataParallel, but that each process's gradients are added up by the test."""

    def __init__(self, module, **options):
        super().__init__()
        self.module = module
        self.shared = True
        self.log = []

    def forward(self, x):
        self.log.append((len(x), self.shared))
        return self.module(x)

    @contextmanager
    def no_sync(self):
        self.shared = False
        yield
        self.shared = True


class Gradients:
    """In place of an optimizer."""

    def __init__(self, network):
        self.param_groups = [{"scale": 1.0}]
        self.parameters = list(network.parameters())

    def step(self):
        self.found = torch.cat(
            [parameter.grad.flatten() for parameter in self.parameters if parameter.grad is not None]
        )

    def zero_grad(self, **options):
        for parameter in self.parameters:
            parameter.grad = None


@pytest.mark.parametrize("counts", [(5, 9, 32), pytest.param(range(1, 41), marks=pytest.mark.slow)], ids=["72", "960"])
def test_any_number_of_parts_and_processes_gives_the_gradients_of_one(counts, photos, monkeypatch):
    """72 or 960 combinations; of each process the last part, and no other, shares the gradients."""
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", Replica)

    def gradients(trainer, batch, accumulate):
        trainer.step.settings = replace(trainer.settings, batch_size=40, accumulate=accumulate)
        trainer.step(batch, 0, 0.0, 0.05)
        return trainer.step.optimizer.found

    groups = {
        size: [Distributed(rank, size, size, torch.device("cpu")) for rank in range(size)] for size in (1, 2, 3, 4)
    }
    trainers = {
        size: [
            trainer_of(photos, None, kind=Mean, distributed=distributed, batch_size=9) for distributed in groups[size]
        ]
        for size in groups
    }
    for trainer in (trainer for found in trainers.values() for trainer in found):
        trainer.step.optimizer = Gradients(trainer.network)
        trainer.step.wrap_ddp()
    pixels = torch.randint(0, 256, (40, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    done, seen = 0, set()
    for count in counts:
        batch = pixels[:count], torch.arange(count) % 3
        for trainer in (trainer for found in trainers.values() for trainer in found):
            trainer.step.labels = np.zeros(count, int)
        expected = gradients(trainers[1][0], batch, 1)
        for size, accumulate in product(groups, (1, 2, 3, 4, 7, 32)):
            done += 1
            images = [len(range(rank, count, size)) for rank in range(size)]
            cut = size, tuple(tuple(micro_batch_sizes(number, accumulate)) for number in images)
            if count < size or cut in seen:
                continue  # is refused, or the same
            seen.add(cut)
            found = torch.zeros_like(expected)
            for trainer in trainers[size]:
                part = tuple(tensor[trainer.distributed.rank :: size] for tensor in batch)
                found += gradients(trainer, part, accumulate) / size
                if size > 1:
                    sizes, shared = zip(*trainer.step.module.log, strict=True)
                    assert sum(sizes) == len(part[0])
                    assert len(sizes) == min(accumulate, len(part[0]))
                    assert shared == (*[False] * (len(sizes) - 1), True)
                    trainer.step.module.log.clear()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert done == 24 * len(counts)


@pytest.mark.parametrize("accumulate", [1, 2, 5, 8, 32, 70])
def test_no_part_is_smaller_than_it_may_be(accumulate):
    for images, least in product(range(1, 70), (1, 2)):
        sizes = micro_batch_sizes(images, accumulate, least)
        assert sum(sizes) == images
        assert len(sizes) == max(1, min(accumulate, images // least))
        assert min(sizes) >= min(least, images)
        assert max(sizes) - min(sizes) <= 1
    assert micro_batch_sizes(0, accumulate) == [0]


def test_images_of_all_processes_in_a_step(photos):
    trainer = trainer_of(photos, None, count=25, batch_size=9)
    batches = [len(batch) for batch in batches_of_epoch(trainer.train.labels, trainer.settings, 0)]
    assert batches == [9, 8, 8]
    assert [trainer.step.batch_size(step) for step in range(6)] == batches * 2


@pytest.mark.parametrize("others", [0, 1])
def test_kernels_are_used_if_every_process_has_them(others, kernels, photos, monkeypatch):
    class Pair(Distributed):
        def all_reduce(self, values):
            return values + others

    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", Replica)
    pair = Pair(0, 2, 2, torch.device("cpu"))
    trainer = trainer_of(photos, None, normed=True, distributed=pair, batch_size=9, speed="fused")
    assert trainer.step.module is not trainer.network
    trainer.step.wrap_ddp()
    assert (trainer.step.module.module is trainer.network) == (others == 0)


def test_steps_of_kernels_are_those_of_layers(kernels, photos):
    pixels = torch.randint(0, 256, (8, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = pixels, torch.arange(8) % 3
    trainers = [trainer_of(photos, None, normed=True, batch_size=8, speed=speed) for speed in ("eager", "fused")]
    assert [trainer.step.module is trainer.network for trainer in trainers] == [True, False]
    for step in range(20):
        losses = [trainer.step(batch, step, 0.0, 0.05).tolist() for trainer in trainers]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for one, other in zip(*(trainer.network.state_dict().values() for trainer in trainers), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
