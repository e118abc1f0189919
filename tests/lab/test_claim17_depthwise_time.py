"""The depthwise convolutions' share of the MACs and of the time."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vertebra.anatomy import Anatomy, inspect
from vertebra.errors import UsageError
from vertebra.introspect import replace_depthwise
from vertebra.lab import time_shares
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim17_depthwise_time as experiment
from vertebra.lab.time_shares import DEPTHWISE, PARTS, measured_shares
from vertebra.models import mobilenet_v2
from vertebra.models.state_dict import meta_build


def rounds(*depthwise):
    """Six rounds in turn with these shares of the time."""
    return [dict.fromkeys(PARTS, (100 - share) / 4) | {DEPTHWISE: share} for share in depthwise]


def timed(monkeypatch, torch_shares, onnxruntime_shares):
    found = {"torch": rounds(*torch_shares), "onnxruntime": rounds(*onnxruntime_shares)}
    monkeypatch.setattr(experiment, "measured_shares", lambda *args: found)
    with meta_build():
        networks = {"own": mobilenet_v2()}
    return experiment.judge_networks(experiment.measure_networks(Setup(), networks)).verdict


def test_the_counts_are_the_published_ones_and_a_quick_run_decides_nothing():
    measured = experiment.measure(Setup(quick=True))
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == pytest.approx(expected.value, rel=expected.tolerance), name
    assert sum("bound on" in name for name in measured.figures) == 8
    assert experiment.judge(measured).verdict is Verdict.OPEN


@pytest.mark.parametrize(
    ("torch_shares", "onnxruntime_shares", "verdict"),
    [
        ([5, 6, 5, 6, 5, 6], [7, 8, 7, 8, 7, 8], Verdict.HOLDS),
        ([5, 6, 5, 6, 5, 6], [15, 16, 15, 16, 15, 16], Verdict.IN_PART),
        ([5, 6, 5, 6, 5, 6], [9, 11, 9, 11, 9, 11], Verdict.OPEN),
        ([5], [5], Verdict.OPEN),  # one round has no interval
    ],
)
def test_measured_times_decide(torch_shares, onnxruntime_shares, verdict, monkeypatch):
    assert timed(monkeypatch, torch_shares, onnxruntime_shares) is verdict


def test_where_they_have_much_of_the_arithmetic_the_claim_fails():
    with meta_build():
        network = nn.Sequential(nn.Conv2d(3, 3, 7, padding=3, groups=3), nn.Conv2d(3, 8, 1))
    assert experiment.judge(experiment.measure(Setup(quick=True), network)).verdict is Verdict.FAILS


def test_a_network_for_other_images_is_asked_of_those():
    layers = (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Flatten(), nn.Linear(8 * 28 * 28, 2))
    measured = experiment.measure_networks(Setup(quick=True), {"own": nn.Sequential(*layers)})
    assert measured.value("own: MACs of depthwise convolutions") == 9 * 8 * 28 * 28


def test_a_network_without_depthwise_convolutions_is_refused():
    with meta_build():
        dense = replace_depthwise(mobilenet_v2())
    with pytest.raises(UsageError, match="dense has no depthwise convolution"):
        experiment.measure_networks(Setup(quick=True), {"dense": dense})


def test_times_of_a_tiny_network_are_measured(monkeypatch):
    network = nn.Sequential(nn.Conv2d(3, 3, 3, stride=16, groups=3), nn.ReLU(), nn.Conv2d(3, 4, 1))
    found = measured_shares(network, Setup(), 1, 0.01)
    assert set(found) == {"onnxruntime", "torch"}
    for (shares,) in found.values():
        assert sum(shares.values()) == pytest.approx(100) and shares[DEPTHWISE] > 0

    def measure(anatomy, executor, seconds):
        if executor == "onnxruntime":
            raise UsageError("an operation cannot be written as ONNX")
        return SimpleNamespace(rows={0: 2.0, 2: 6.0})

    monkeypatch.setattr(Anatomy, "measure", measure)
    (shares,) = measured_shares(network, Setup(), 1, 0.01)["torch"]
    assert list(shares.values())[:2] == [25, 75]
    assert set(measured_shares(network, Setup(), 2, 0.01)) == {"torch"}


class Event:
    """Of one millisecond for each call."""

    def __init__(self, enable_timing):
        self.recorded = False

    def record(self):
        self.recorded = True

    def elapsed_time(self, end):
        assert self.recorded and end.recorded
        return 1.0


def test_times_on_a_gpu_are_summed_over_all_calls_of_a_module(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    passes = []
    monkeypatch.setattr(torch.cuda, "_sleep", passes.append, raising=False)
    relu = nn.ReLU()
    network = nn.Sequential(nn.Conv2d(3, 3, 3, stride=32, groups=3), relu, nn.Conv2d(3, 4, 1), relu).train()
    rows = {row.index: row for row in inspect(network, 224).rows}
    times = time_shares._times_on_gpu(network, rows, "cpu")
    assert sorted(times.values()) == [1, 1, 2]
    assert len(passes) == 4  # the GPU is busy before each, those that warm it up included
    assert network.training and not network[0]._forward_hooks
