"""Forward passes of networks, timed in turns."""

import torch
from torch import nn

from vertebra.lab.experiment import Setup
from vertebra.lab.forward_timing import ratio_figure, time_forward


class _Recording(nn.Module):
    """Keeps what it was called with."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        self.calls.append((tuple(x.shape), self.training, torch.is_grad_enabled()))
        return x


def test_networks_run_in_evaluation_each_on_its_own_shape_and_as_often_as_the_other():
    one, other = _Recording(), _Recording()
    timings = time_forward(Setup(), {"one": one, "other": other}, {"one": (1, 2, 3, 3), "other": (1, 1, 3, 3)}, 0.01)
    assert set(one.calls) == {((1, 2, 3, 3), False, False)} and set(other.calls) == {((1, 1, 3, 3), False, False)}
    assert len(one.calls) == len(other.calls) > timings.rounds


def test_a_ratio_is_a_figure_with_its_interval():
    timings = time_forward(Setup(), {"one": nn.Identity(), "other": nn.Identity()}, (1, 1, 2, 2), 0.01)
    figure = ratio_figure(timings, "one", "other")
    assert figure.unit == "×" and figure.n == timings.rounds and figure.interval
    assert figure.interval[0] <= figure.value <= figure.interval[1]
