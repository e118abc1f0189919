"""What ResNet's bottleneck costs."""

from functools import partial

import pytest

from vertebra.errors import UsageError
from vertebra.introspect import replace_bottlenecks
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim11_bottleneck as experiment
from vertebra.models import ResNet, googlenet
from vertebra.models.resnet import BasicBlock, Bottleneck
from vertebra.models.state_dict import meta_build

QUICK = Setup(quick=True)


@pytest.fixture(scope="module")
def counts():
    return experiment.measure(QUICK)


def test_the_counts_are_the_published_ones_and_time_is_not_measured(counts):
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(counts.value(name) - expected.value) <= expected.tolerance * expected.value, name
    judgement = experiment.judge(counts)
    assert judgement.verdict is Verdict.HOLDS and "not measured" in judgement.reason


@pytest.mark.parametrize(
    "block",
    [partial(Bottleneck, base_width=512), lambda channels, _: BasicBlock(channels, channels)],
    ids=["widens", "plain"],
)
def test_a_block_that_does_not_compress_costs_as_much(block):
    assert experiment.judge(experiment.measure(QUICK, block)).verdict is Verdict.FAILS


@pytest.mark.parametrize(
    ("weights", "times", "verdict", "reason"),
    [
        (9, ((2, 3), (0.8, 1.2)), Verdict.HOLDS, "at equal channels"),
        (9, ((2, 3), (0.5, 0.9)), Verdict.HOLDS, "more at equal MACs"),
        (9, ((0.9, 3), (0.5, 0.9)), Verdict.IN_PART, "not shown"),
        (1, ((2, 3), (0.5, 0.9)), Verdict.IN_PART, "takes less time, but has no fewer weights"),
        (1, ((0.9, 3), (0.5, 0.9)), Verdict.FAILS, "no fewer weights"),
    ],
)
def test_weights_and_time_both_decide(weights, times, verdict, reason):
    figures = {experiment.EQUAL: Figure(weights, "×")}
    figures |= {name: Figure(1, "×", 9, interval) for name, interval in zip(experiment.TIMES, times, strict=True)}
    judgement = experiment.judge(Measured(figures))
    assert judgement.verdict is verdict and reason in judgement.reason


def _small():
    return ResNet(Bottleneck, (2, 1, 1, 1), num_classes=2)


def test_networks_of_ones_own():
    with meta_build():
        measured = experiment.measure_networks(Setup(), {"mine": _small()})
        assert measured.value("mine: bottlenecks") == 4  # the first block reads as many as its 3×3
        assert experiment.judge_networks(measured).verdict is Verdict.HOLDS
        for name, network in (("plain", replace_bottlenecks(_small())), ("inception", googlenet())):
            with pytest.raises(UsageError, match=f"{name} has no bottleneck"):
                experiment.measure_networks(Setup(), {name: network})


def test_plain_blocks_that_cost_no_more_are_told():
    figures = {"mine: MACs": Figure(3), "mine: MACs with plain blocks": Figure(3)}
    judgement = experiment.judge_networks(Measured(figures, {"networks": {"mine": {}}}))
    assert judgement.verdict is Verdict.FAILS
