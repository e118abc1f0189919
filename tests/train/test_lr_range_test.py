"""The learning rate that a range test finds."""

import math

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")
import torch
from tiny_trainer import trainer_of
from torch import nn

from vertebra.train import Settings
from vertebra.train.lr_range_test import range_test


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"accumulate": 3, "normed": True}, {"freeze": 1}, {"mixup": 0.3}])
def test_a_rate_is_found_with(options, photos, tmp_path):
    trainer = trainer_of(photos, tmp_path / "run", **options, lr="auto")
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    rate, tried = range_test(trainer, steps=12)
    assert 1e-6 < rate < 1
    assert len(tried) >= 5
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.network.state_dict().items())
    assert not trainer.average.tensors
    assert not trainer.step.optimizer.state


class Losses:
    """A trainer whose steps have given losses; only `range_test` takes it."""

    def __init__(self, losses, optimizer="sgd"):
        self.settings = Settings("x", method="scratch", optimizer=optimizer)
        self.network = nn.Linear(2, 2)
        self.step, self.optimizer = self, torch.optim.SGD(self.network.parameters(), 0.1)
        self.losses, self.rates, self.told = losses, [], []

    def batches(self, start):
        return iter(self.losses[start:])

    def __call__(self, batch, step, progress, lr):
        self.rates.append(lr)
        return torch.tensor([4 * batch, 0, 4])  # summed over four images

    def progress(self, *what):
        self.told.append(what)


@pytest.mark.parametrize(("optimizer", "low", "high"), [("adamw", 1e-6, 0.1), ("sgd", 1e-5, 3.0)])
def test_rates_rise_from_far_too_small_to_far_too_large(optimizer, low, high):
    trainer = Losses([1.0] * 9, optimizer)
    _, tried = range_test(trainer, steps=5)
    assert trainer.rates == [lr for lr, _ in tried]
    assert trainer.rates == pytest.approx([low * (high / low) ** (number / 4) for number in range(5)])
    assert [loss for _, loss in tried] == pytest.approx([1] * 5)  # the mean so far begins with the first
    assert trainer.told == [("finding a learning rate", number, 5) for number in range(1, 6)]


# The mean of the first two is (0.16 + 0.2 x) / 0.36, which is 4 where x is 6.4.
@pytest.mark.parametrize(("second", "steps"), [(6.3, 4), (6.5, 2), (float("inf"), 2), (float("nan"), 2)])
def test_rates_rise_until_the_loss_is_four_times_its_least(second, steps):
    trainer = Losses([2.0, 2 * second, 0.0, 0.0])
    rate, tried = range_test(trainer, steps=4)
    assert len(trainer.rates) == steps
    assert len(tried) == (steps if math.isfinite(second) else 1)
    best = trainer.rates[0]  # the means after it are larger: 2.6 and 1.3 where it goes on
    assert rate == pytest.approx(best / 10)


def test_a_tenth_of_the_rate_of_the_least_loss_is_taken():
    rate, tried = range_test(Losses([3.0, 2.0, 1.0, 2.0, 8.0]), steps=5)
    losses = [loss for _, loss in tried]
    assert losses.index(min(losses)) == 2 and rate == float(f"{tried[2][0] / 10:.2g}")


def test_where_the_first_loss_is_no_number_the_least_rate_is_taken():
    assert range_test(Losses([float("nan"), 1.0])) == (1e-5, [])
