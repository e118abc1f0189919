"""What parallel branches save."""

import pytest

from vertebra.introspect import DenseInception, ReducedInception, UnreducedInception
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim04a_parallel_branches as experiment
from vertebra.models.googlenet import BasicConv2d, Inception


class _AllLarge(Inception):
    """Every branch ends in a 3×3, and the first has no 1×1."""

    def __init__(self, *columns: int) -> None:
        super().__init__(*columns)
        channels, ch1x1, *_, pool_proj = columns
        self.branch1 = BasicConv2d(channels, ch1x1, kernel_size=3, padding=1)
        self.branch4.append(BasicConv2d(pool_proj, pool_proj, kernel_size=3, padding=1))


@pytest.fixture(scope="module")
def measured():
    return experiment.measure(Setup())


def test_the_counts_are_the_published_ones(measured):
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(measured.value(name) - expected.value) <= expected.tolerance * expected.value, name
    judgement = experiment.judge(measured)
    assert judgement.verdict is Verdict.HOLDS and "1×1 in front of them saves more" in judgement.reason


def test_one_convolution_in_place_of_the_branches_saves_nothing():
    measured = experiment.measure(Setup(), ReducedInception, DenseInception)
    assert measured.value("saved by branches, with 1×1 in front") == 0
    assert experiment.judge(measured).verdict is Verdict.FAILS


def test_branches_of_large_convolutions_alone_save_less():
    measured = experiment.measure(Setup(), _AllLarge, UnreducedInception)
    assert experiment.judge(measured).verdict is Verdict.IN_PART


def test_the_reason_tells_where_the_branches_save_more_than_the_1x1(measured):
    few = {"saved by 1×1, one 3×3 convolution": experiment.Figure(10, "%")}
    changed = experiment.Measured({**measured.figures, **few}, measured.series)
    assert "more than the 1×1" in experiment.judge(changed).reason
