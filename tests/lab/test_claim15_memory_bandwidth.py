"""What memory traffic costs DenseNet, ResNet, and any network."""

from dataclasses import replace

import pytest
from torch import nn

from vertebra.anatomy import devices
from vertebra.errors import UsageError
from vertebra.lab import bandwidth_costs
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim15_memory_bandwidth as experiment
from vertebra.models import densenet201, resnet50
from vertebra.models.state_dict import meta_build

QUICK = Setup(quick=True)


def _wide():
    """Much arithmetic for each byte."""
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 7), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _narrow():
    """Little arithmetic for each byte."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.fixture(scope="module")
def counted():
    with meta_build():
        return experiment.measure(QUICK, {experiment.DENSE: densenet201(), experiment.RESIDUAL: resnet50()})


def _judged(counted, device, low, high):
    figures = {**counted.figures, "measured: time per MAC": Figure(low, "×", 9, (low, high))}
    return experiment.judge(Measured(figures, {**counted.series, "device": device}))


def test_densenet_is_bound_by_memory_where_resnet_is_less(counted):
    assert experiment.judge(counted).verdict is Verdict.IN_PART
    dense, residual = (
        counted.value(f"{name}: GPUs on which it is bound by memory") for name in counted.series["networks"]
    )
    assert dense >= residual and counted.value("bytes per MAC, one over the other") > 2
    assert abs(counted.value("DenseNet-201: MACs") / counted.value("ResNet-50: MACs") - 1) < 0.06
    assert counted.value("h100: time per MAC") > counted.value("phone: time per MAC") > 1


@pytest.mark.parametrize(
    ("device", "interval", "verdict", "says"),
    [
        ("cpu", (0.5, 0.6), Verdict.IN_PART, "No GPU was timed"),
        ("cuda", (1.2, 1.6), Verdict.IN_PART, "longer per MAC on this GPU"),
        ("cuda", (0.5, 0.6), Verdict.FAILS, "less time"),
        ("cuda", (0.9, 1.6), Verdict.OPEN, "includes 1"),
    ],
)
def test_a_gpu_can_contradict_it(counted, device, interval, verdict, says):
    judgement = _judged(counted, device, *interval)
    assert judgement.verdict is verdict and says in judgement.reason


def test_each_part_is_needed(counted):
    traffic = {**counted.figures, "bytes per MAC, one over the other": Figure(0.9, "×")}
    assert experiment.judge(Measured(traffic, counted.series)).verdict is Verdict.FAILS
    networks = counted.series["networks"]
    alike = {**counted.series, "networks": dict.fromkeys(networks, networks[experiment.DENSE])}
    judgement = experiment.judge(Measured(counted.figures, alike))
    assert judgement.verdict is Verdict.FAILS and "no more than the other's" in judgement.reason


def test_with_the_networks_swapped_it_does_not_hold():
    measured = experiment.measure(QUICK, {"a": _wide(), "b": _narrow()})
    assert experiment.judge(measured).verdict is Verdict.FAILS
    assert experiment.judge(experiment.measure(QUICK, {"b": _narrow(), "a": _wide()})).verdict is Verdict.IN_PART


@pytest.mark.parametrize(
    ("key", "factor", "says"), [(None, 1e6, "Memory does not decide"), ("h100", 1e6, "Not every GPU computes more")]
)
def test_where_bandwidth_is_plentiful_it_does_not_hold(key, factor, says):
    known = {k: replace(d, bandwidth=factor * d.bandwidth) if key in (None, k) else d for k, d in devices().items()}
    judgement = experiment.judge(experiment.measure(QUICK, {"b": _narrow(), "a": _wide()}, known))
    assert judgement.verdict is Verdict.FAILS and says in judgement.reason


def test_a_run_times_both_at_equal_macs(monkeypatch):
    monkeypatch.setattr("gc.collect", int)  # slow in a test session
    monkeypatch.setattr(bandwidth_costs, "machine_profile", lambda *_: devices()["laptop"])
    monkeypatch.setattr(experiment, "SIZE", 16)
    measured = experiment.measure(Setup(), {"a": _wide(), "b": _narrow()}, seconds=1e-3)
    low, high = measured.figures["measured: time per MAC"].interval
    assert low <= measured.value("measured: time per MAC") <= high
    assert measured.value("predicted here: time per MAC") > 0


def test_any_network_can_be_asked():
    networks = {"wide": _wide(), "narrow": _narrow()}
    measured = experiment.measure_networks(QUICK, networks)
    assert measured.value("wide: bytes per MAC") < measured.value("narrow: bytes per MAC")
    assert experiment.judge_networks(measured).verdict is Verdict.IN_PART
    for name, verdict in (("wide", Verdict.FAILS), ("narrow", Verdict.HOLDS)):
        alone = experiment.measure_networks(QUICK, {name: networks[name]})
        assert experiment.judge_networks(alone).verdict is verdict


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "no convolution and no linear layer"),
        (nn.Identity(), "is no classifier"),
    ],
)
def test_a_network_that_cannot_be_asked_is_told(network, says):
    with pytest.raises(UsageError, match=says):
        experiment.measure_networks(QUICK, {"mine": network})
