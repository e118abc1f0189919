"""Forward passes of networks, timed in turns."""

import pytest
import torch
from torch import nn

from vertebra.lab.experiment import Setup
from vertebra.lab.forward_timing import GPU_BATCH, ratio_figure, time_forward, time_training_steps, timed_batch
from vertebra.models import DenseNet, dense_training, densenet


class _Recording(nn.Module):
    """Keeps what it was called with."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        self.calls.append((tuple(x.shape), self.training, torch.is_grad_enabled()))
        self.channels_last = x.is_contiguous(memory_format=torch.channels_last)
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


def test_a_gpu_is_timed_with_more_images():
    assert timed_batch("cpu", 4) == 4 and timed_batch("cuda", 4) == GPU_BATCH


def test_networks_and_images_are_in_channels_last_beside_the_cpu():
    for device in ("cpu", "meta"):
        recording = _Recording()
        network = nn.Sequential(recording, nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for time in (time_forward, time_training_steps):
            time(Setup(device=device), {"one": network}, (2, 3, 8, 8), seconds=0.001)
            weight_is = network[1].weight.is_contiguous(memory_format=torch.channels_last)
            assert (recording.channels_last, weight_is) == ((device == "meta"),) * 2


def test_training_steps_run_layer_by_layer(monkeypatch):
    """The claims on DenseNet speak of its layers, not of `dense_block_function`, which needs fewer operations."""

    def fail(*_):
        raise AssertionError("a block was one operation")

    monkeypatch.setattr(dense_training, "_LEAST", 0)
    monkeypatch.setattr(densenet, "train_block", fail)
    network = DenseNet(4, (2, 2), 8, memory_efficient=True, num_classes=2)
    time_training_steps(Setup(), {"": network}, (2, 3, 32, 32), seconds=0.001)
    with pytest.raises(AssertionError, match="one operation"):
        network(torch.randn(2, 3, 32, 32))
