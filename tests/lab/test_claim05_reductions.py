"""What the 1×1 in front of larger convolutions save."""

import pytest

from vertebra.errors import UsageError
from vertebra.introspect import UnreducedInception
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim05_reductions as experiment
from vertebra.models import googlenet, vgg11
from vertebra.models.googlenet import Inception
from vertebra.models.state_dict import meta_build

QUICK = Setup(quick=True)


class _Widening(Inception):
    """The 1×1 in front have more channels than what they read."""

    def __init__(self, *columns: int) -> None:
        channels, ch1x1, _, ch3x3, _, ch5x5, pool_proj = columns
        super().__init__(channels, ch1x1, 2 * channels, ch3x3, channels, ch5x5, pool_proj)


class _OneKeeps(Inception):
    """One of the two 1×1 in front keeps the channels, and together they still save arithmetic."""

    def __init__(self, *columns: int) -> None:
        channels, *others = columns
        super().__init__(channels, *others)
        self.branch3 = Inception(channels, *others[:3], channels, *others[4:]).branch3


@pytest.fixture(scope="module")
def measured():
    return experiment.measure(QUICK)


def test_the_counts_are_the_published_ones_and_time_is_not_measured(measured):
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(measured.value(name) - expected.value) <= expected.tolerance * expected.value, name
    assert measured.value("1×1 in front that narrow") == 18
    judgement = experiment.judge(measured)
    assert judgement.verdict is Verdict.HOLDS and "time was not measured" in judgement.reason


def test_reductions_that_widen_reduce_nothing():
    assert experiment.judge(experiment.measure(QUICK, inception=_Widening)).verdict is Verdict.FAILS


def test_one_that_keeps_its_channels_is_found():
    judgement = experiment.judge(experiment.measure(QUICK, inception=_OneKeeps))
    assert judgement.verdict is Verdict.IN_PART and "not every one narrows" in judgement.reason


def test_taking_the_reductions_out_of_both_leaves_none_to_judge():
    measured = experiment.measure(QUICK, inception=UnreducedInception)
    assert measured.value("MACs, ratio") == 1 and experiment.judge(measured).verdict is Verdict.FAILS


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((1.1, 1.9), Verdict.HOLDS), ((0.9, 1.9), Verdict.IN_PART), ((0.5, 0.8), Verdict.IN_PART)],
)
def test_time_decides_with_its_interval(interval, verdict, measured):
    figures = {**measured.figures, "time, ratio": Figure(1.4, "×", 9, interval)}
    assert experiment.judge(Measured(figures)).verdict is verdict


def test_networks_of_ones_own():
    with meta_build():
        measured = experiment.measure_networks(Setup(), {"mine": googlenet()})
        assert measured.value("mine: MACs without 1×1") == 3_281_731_584
        assert experiment.judge_networks(measured).verdict is Verdict.HOLDS
        with pytest.raises(UsageError, match="other has no 1×1 convolution that narrows"):
            experiment.measure_networks(Setup(), {"other": vgg11()})


def test_reductions_that_cost_more_than_they_save_do_not_hold():
    figures = {
        "mine: MACs": Figure(10),
        "mine: MACs without 1×1": Figure(9),
        "mine: 1×1 in front that narrow": Figure(1),
    }
    assert experiment.judge_networks(Measured(figures, {"networks": {"mine": {}}})).verdict is Verdict.FAILS
