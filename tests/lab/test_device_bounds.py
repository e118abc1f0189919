"""Bounds of devices: what limits a network there, and rank correlations."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from vertebra.anatomy import devices, inspect
from vertebra.lab.device_bounds import (
    devices_by_flops_per_byte,
    flops_per_byte,
    is_gpu,
    machine_profile,
    memory_bound_share,
    rank_correlation,
    stage_ms,
)


def test_devices_come_in_the_order_of_their_flops_per_byte():
    found = devices_by_flops_per_byte()
    assert len(found) == len(devices()) and found == sorted(found, key=flops_per_byte)
    assert {device.key for device in found if not is_gpu(device)} == {"laptop", "phone", "raspberrypi5"}


def test_stages_add_up_to_the_network():
    latency = inspect("efficientnet_b0").latency("h100")
    assert sum(stage_ms(latency).values()) == pytest.approx(latency.total_ms)


def test_without_a_limit_of_memory_nothing_is_bound_by_it():
    found = inspect(nn.Sequential(nn.Conv2d(3, 8, 1, device="meta"), nn.ReLU()), 8)
    device = devices()["laptop"]
    assert memory_bound_share(found.latency(device)) == 1
    assert memory_bound_share(found.latency(replace(device, bandwidth=math.inf))) == 0
    assert memory_bound_share(found.latency(device), stages=["no such stage"]) == 0


@pytest.mark.parametrize("y", [[3, 1, 4, 1, 5, 9], [1, 1, 1, 1, 2, 1], [6, 5, 4, 3, 2, 1]])
def test_a_rank_correlation_is_spearmans(y):
    x = [1, 2, 4, 8, 16, 32]
    found = rank_correlation(x, y)
    assert found.value == pytest.approx(spearmanr(x, y).statistic)
    low, high = found.interval
    assert -1 <= low <= found.value <= high <= 1 and low < high


@pytest.mark.parametrize(("x", "y"), [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4])])
def test_too_few_or_equal_values_say_nothing(x, y):
    assert rank_correlation(x, y).interval == (-1, 1)


def test_without_a_profile_of_the_gpu_nothing_is_predicted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert machine_profile("cuda") is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert machine_profile("cuda").key == "h100"
