"""Measured times of a network and of its kernels."""

import json

import pytest
import torch
from torch import nn

import vertebra
from vertebra.anatomy.kernels import build_kernels
from vertebra.anatomy.measurement import operation_times
from vertebra.errors import UsageError


@pytest.mark.parametrize("executor", ["onnxruntime", "torch"])
def test_every_kernel_gets_a_time(taken, executor):
    anatomy = taken("mobilenet_v2", 64)
    found = anatomy.measure(executor, seconds=0.1)
    mains = {kernel.main.index for kernel in build_kernels(anatomy.rows, executor)}
    views = {row.index for row in anatomy.rows if row.kind.value == "view"}
    assert mains <= found.rows.keys() | views
    assert found.rows.keys() <= mains | views
    assert min(found.rows.values()) >= 0
    assert found.ms(anatomy.rows) == pytest.approx(sum(found.rows.values()))
    low, high = found.quartiles_ms
    assert 0 < low <= found.total_ms <= high
    assert json.loads(json.dumps(found.to_dict()))["runs"] == found.runs >= 3
    assert anatomy.to_frame(measurement=found).measured_ms.notna().sum() == len(found.rows)


def test_rough_times_are_of_the_same_operations(taken):
    anatomy = taken("mobilenet_v2", 64)
    found = operation_times(anatomy.subject, seconds=0.01)
    assert found.keys() == anatomy.measure("torch", seconds=0.01).rows.keys()
    assert min(found.values()) >= 0 < sum(found.values())


def test_torch_measures_what_has_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Linear(8, 8)

        def forward(self, x, y):
            return self.scale(x) * y

    inputs = {"x": torch.zeros(2, 8), "y": torch.zeros(2, 8, dtype=torch.int64)}
    found = vertebra.anatomy(Two(), inputs=inputs).measure("torch", 0.05)
    assert found.total_ms > 0


class Constant(nn.Module):
    """A tensor that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 4, 3), torch.ones(1, 4, 1, 1)

    def forward(self, x):
        return self.conv(x) * self.scale


def test_constants_get_values_too():
    found = vertebra.anatomy(Constant(), 16).measure("torch", 0.02)
    assert len(found.rows) == 2


class Unsound(nn.Module):
    """Runs on shapes, and not on the values that are made up for it."""

    def forward(self, x):
        if not x.is_meta:
            raise ValueError("no such pixels.")
        return x + 1


def test_what_runs_on_shapes_alone_is_said():
    with pytest.raises(UsageError, match=r"runs on shapes, but not on random values: ValueError: no such pixels\."):
        vertebra.anatomy(Unsound(), 16).measure("torch", 0.02)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_network_as_it_is(training):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    vertebra.anatomy(network, 16).measure("torch", 0.02)
    assert network.training == training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
