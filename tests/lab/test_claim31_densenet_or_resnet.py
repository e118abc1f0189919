"""What DenseNet-169 costs beside ResNet-50."""

from functools import partial

import pytest
from torch import nn

from vertebra.lab import training_costs
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim31_densenet_or_resnet as experiment
from vertebra.lab.runs import run
from vertebra.models import resnet18, resnet50

QUICK = Setup(quick=True)


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(QUICK)
    for name, expected in experiment.CLAIM.expected.items():
        if name in measured.figures:
            assert abs(measured.value(name) - expected.value) <= expected.tolerance * expected.value, name
    assert experiment.CLAIM.expected["DenseNet-169: top-1 accuracy, %"].value == 75.6
    judgement = experiment.judge(measured)
    assert judgement.verdict is Verdict.IN_PART and "no time" in judgement.reason
    assert judgement.decided_by == ("parameters, ratio", "MACs, ratio", "kept for backward, ratio")


def test_another_network_in_its_place_changes_the_verdict():
    assert experiment.judge(experiment.measure(QUICK, resnet50, resnet18, 64)).verdict is Verdict.HOLDS
    assert experiment.judge(experiment.measure(QUICK, resnet18, resnet50, 64)).verdict is Verdict.FAILS


@pytest.mark.parametrize(
    ("counts", "low", "high", "verdict"),
    [
        (1.2, 1.1, 1.3, Verdict.HOLDS),
        (1.2, 0.9, 1.3, Verdict.IN_PART),
        (0.8, 1.1, 1.3, Verdict.IN_PART),
        (0.8, 0.9, 1.3, Verdict.FAILS),
    ],
)
def test_times_decide_with_the_whole_interval(counts, low, high, verdict):
    figures = {"parameters, ratio": Figure(counts, "×"), "training step, ratio": Figure(1.2, "×", 9, (low, high))}
    assert experiment.judge(Measured(figures, {"costs": ["parameters", "training step"]})).verdict is verdict


class Narrow(nn.Sequential):
    def __init__(self, width=4):
        super().__init__(nn.Conv2d(3, width, 3, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2))


class Wide(Narrow):
    def __init__(self):
        super().__init__(64)


class Head(nn.Sequential):
    """More parameters than the others, and fewer MACs."""

    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 500), nn.Linear(500, 20))


@pytest.mark.parametrize(
    ("networks", "verdict"),
    [
        ([Narrow], Verdict.OPEN),
        ([Narrow, Wide], Verdict.HOLDS),
        ([Narrow, Wide, Head], Verdict.FAILS),
        ([Narrow, Narrow, Wide], Verdict.IN_PART),
    ],
)
def test_of_the_users_networks_the_costliest_in_everything_is_looked_for(networks, verdict):
    networks = {str(number): network() for number, network in enumerate(networks)}
    measured = experiment.measure_networks(QUICK, networks)
    assert experiment.judge_networks(measured).verdict is verdict


def test_the_users_networks_are_drawn():
    result = run(31, models=[Narrow(), Wide()], quick=True)
    assert result.figures["Wide: parameters"].value == 64 * 27 + 64 + 130
    svg = result.picture("svg")
    assert b"kept for backward" in svg and b"What the networks cost" in svg and b"DenseNet-169" not in svg


def test_a_full_run_times_the_same_networks(monkeypatch):
    monkeypatch.setattr("gc.collect", int)  # slow in a test session
    for name in ("time_training_steps", "time_forward"):
        monkeypatch.setattr(training_costs, name, partial(_short, getattr(training_costs, name)))
    measured = experiment.measure(Setup(), Wide, Narrow, 32)
    assert measured.series["costs"][-2:] == ["training step", "inference"]
    assert measured.figures["inference, ratio"].interval
    assert measured.figures["ResNet-50: training step"].n >= 6


def _short(timed, setup, networks, shapes, seconds):
    assert set(shapes) == set(networks)
    return timed(setup, networks, shapes, seconds=1e-3)
