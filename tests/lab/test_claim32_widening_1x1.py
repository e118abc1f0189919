"""Whether widening by 1×1 saves arithmetic."""

import pytest

from vertebra.introspect import UnreducedInception
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim32_widening_1x1 as experiment
from vertebra.models.mobilenetv2 import InvertedResidual


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == pytest.approx(expected.value, rel=expected.tolerance), name
    assert sum(measured.series["shares"].values()) == pytest.approx(100)
    assert experiment.judge(measured).verdict is Verdict.IN_PART


def narrowing(inp, oup, stride, expand_ratio, **options):
    return InvertedResidual(inp, oup, stride, 0.25 if expand_ratio == 6 else expand_ratio, **options)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"block": narrowing}, Verdict.HOLDS),
        ({"inception": UnreducedInception}, Verdict.FAILS),
    ],
)
def test_with_other_blocks_the_verdict_is_another(changes, verdict):
    assert experiment.judge(experiment.measure(Setup(), **changes)).verdict is verdict
