"""Values without slope under ReLU and SiLU, and the rule on networks with other activations."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.lab.activation_gain import GAIN, INTERACTION, arms_of, gain_figures
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim20_dead_values as experiment
from vertebra.lab.slope_shares import least_figures, slope_shares

STORED = Path(__file__).parent / "measurements"
NO_SILU = {**experiment.ACTIVATIONS, "SiLU": nn.ReLU}


def stored(name):
    return Measured.from_dict(json.loads((STORED / f"claim20_{name}.json").read_text()))


@pytest.fixture(scope="module")
def trained():
    return stored("trained")


def test_silus_least_value_and_slope_are_as_expected():
    figures = least_figures("SiLU", nn.SiLU())
    for name, expected in experiment.CLAIM.expected.items():
        assert figures[name].value == pytest.approx(expected.value, rel=expected.tolerance), name


def test_least_figures_of_a_parabola():
    figures = least_figures("x²", type("Square", (nn.Module,), {"forward": lambda self, x: (x - 1) ** 2})())
    assert figures["x²: least value at"].value == pytest.approx(1)
    assert figures["x²: least slope"].value == pytest.approx(-22)


def test_a_quick_run_is_of_untrained_networks_and_says_so():
    broken = experiment.measure(Setup(seeds=1, quick=True), NO_SILU)
    judgement = experiment.judge(broken)
    assert judgement.verdict is Verdict.OPEN and "spares no" in judgement.reason
    assert broken.value("SiLU: values without slope, untrained") > 25
    own = replace(broken, series={**broken.series, "flat": {**broken.series["flat"], "SiLU": [0.1]}})
    judgement = experiment.judge(own)
    assert judgement.verdict is Verdict.OPEN and "not run" in judgement.reason


def test_the_first_half_holds_and_the_second_is_not_decided(trained):
    judgement = experiment.judge(trained)
    assert judgement.verdict is Verdict.IN_PART and "not decided" in judgement.reason


def test_with_relu_in_the_place_of_silu_the_verdict_is_another():
    judgement = experiment.judge(stored("relu_for_silu"))
    assert judgement.verdict is Verdict.FAILS


def test_one_seed_in_which_silu_has_flat_values_is_enough(trained):
    flat = {**trained.series["flat"], "SiLU": [0.1, 0.1, 6]}
    broken = replace(trained, series={**trained.series, "flat": flat})
    assert experiment.judge(broken).verdict is Verdict.FAILS


@pytest.mark.parametrize(
    ("interval", "gain", "verdict", "reason"),
    [
        ((0.1, 0.9), 0.5, Verdict.HOLDS, "gain more by it"),
        ((0.1, 0.9), -0.5, Verdict.IN_PART, "not decided"),
        ((-0.9, -0.1), 0.5, Verdict.IN_PART, "gain less"),
        (None, 0.5, Verdict.IN_PART, "not decided"),
    ],
)
def test_the_second_half_is_decided_by_the_interaction(trained, interval, gain, verdict, reason):
    own = {INTERACTION: Figure(0, "points", 5, interval), f"{GAIN}: depthwise": Figure(gain, "points", 5)}
    judgement = experiment.judge(replace(trained, figures={**trained.figures, **own}))
    assert judgement.verdict is verdict and reason in judgement.reason


def test_the_gain_is_paired_by_seed():
    accuracy = {"SiLU, depthwise": [91, 81], "ReLU6, depthwise": [90, 80], "SiLU, dense": [95, 93]}
    figures = gain_figures({**accuracy, "ReLU6, dense": [96, 94]})
    assert figures[f"{GAIN}: depthwise"].value == 1 and figures[INTERACTION].value == 2
    assert figures[INTERACTION].interval == (2, 2)


def test_the_arms_differ_in_the_spatial_convolution():
    arms = arms_of(experiment.ACTIVATIONS)
    assert set(arms) == {"ReLU, depthwise", "ReLU6, depthwise", "ReLU6, dense", "SiLU, depthwise", "SiLU, dense"}
    groups = {name: arm(num_classes=2).features[1].block[1][0].groups for name, arm in arms.items()}
    assert groups["SiLU, dense"] == 1 < groups["SiLU, depthwise"]


def network(activation):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("activation", "verdict"),
    [
        (nn.ReLU(), Verdict.HOLDS), (nn.SiLU(), Verdict.HOLDS), (nn.Tanh(), Verdict.OPEN),
        (nn.Sequential(nn.Softplus(), nn.ReLU()), Verdict.FAILS),
    ],
)  # fmt: skip
def test_a_users_network_is_judged_by_its_own_activations(activation, verdict):
    measured = experiment.measure_networks(Setup(), {"own": network(activation)})
    assert experiment.judge_networks(measured).verdict is verdict


def test_a_channel_that_is_always_negative_is_dead():
    one = network(nn.ReLU())
    with torch.no_grad():
        one[1].bias[:2] = -100
    found = slope_shares(one.train(), torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)))
    assert found.dead == 25 and found.flat > 25 and one.training


def test_a_network_without_activations_is_refused():
    with pytest.raises(UsageError, match="no activation"):
        experiment.measure_networks(Setup(), {"linear": network(nn.Identity())})


@pytest.mark.slow
def test_training_with_relu_in_the_place_of_silu_changes_the_verdict():
    assert experiment.judge(experiment.measure(Setup(seeds=2), NO_SILU)).verdict is Verdict.FAILS
