"""Sums of steps' figures, in whatever order they arrive."""

import math

import pytest

pytest.importorskip("torch")

import torch

from vertebra.train.step_metrics import StepMetrics


def metrics(highest_loss=10.0):
    seconds = iter(range(100))
    return StepMetrics(lambda: float(next(seconds)), highest_loss)


def sums(loss, correct=1.0, images=2.0):
    return torch.tensor([loss, correct, images])


def test_means_of_an_epoch():
    found = metrics()
    assert found.means() == {}
    for step, loss in enumerate((4.0, 6.0), start=1):
        found.add(step, 0.1, sums(loss))
    found.read(wait=True)
    assert found.means() == {"loss": 2.5, "accuracy": 0.5, "images_per_second": 4.0}
    found.start_epoch()
    assert found.means() == {}


def test_a_resumed_epoch_goes_on():
    found = metrics()
    found.start_epoch([4.0, 1.0, 2.0])
    found.add(2, 0.1, sums(6.0))
    found.read(wait=True)
    assert found.sums == [10.0, 2.0, 4.0]
    assert found.means() == {"loss": 2.5, "accuracy": 0.5, "images_per_second": 2.0}  # of this process alone


class Event:
    """As of a GPU: done when it is asked for the third time, or waited for."""

    def __init__(self):
        self.asked, self.waited = 0, False

    def query(self):
        self.asked += 1
        return self.asked > 2

    def synchronize(self):
        self.waited = True


def test_what_has_not_arrived_is_waited_for_only_where_it_is_asked():
    found = metrics()
    found.add(1, 0.1, sums(4.0))
    event = found._pending[0].copied = Event()
    found.read(wait=False)
    assert found.means() == {} and not event.waited
    found.read(wait=True)
    assert found.means()["loss"] == 2.0 and event.waited


@pytest.mark.parametrize("loss", [21.0, math.nan, math.inf])
def test_the_first_step_that_diverges_is_kept(loss):
    found = metrics()
    for step, value in enumerate((20.0, loss, 50.0), start=1):
        found.add(step, 0.1 * step, sums(value))
    assert found.diverged is None
    found.read(wait=True)
    assert found.diverged is not None
    assert (found.diverged.step, found.diverged.lr) == (2, 0.2)
