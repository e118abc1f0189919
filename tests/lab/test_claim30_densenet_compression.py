"""Where DenseNet's 1×1 convolutions cut channels."""

from functools import partial

import pytest
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import simplify_densenet
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim30_densenet_compression as experiment
from vertebra.models import DenseNet
from vertebra.models.state_dict import meta_build

small = partial(DenseNet, 16, (2, 2), 128)  # reads 128 or more and narrows to 64 in every layer


def _broken(bottleneck=True, halving=True):
    return partial(_simplified, bottleneck, halving)


def _simplified(bottleneck, halving):
    return simplify_densenet(small(), bottleneck=bottleneck, halving=halving)


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(measured.value(name) - expected.value) <= expected.tolerance * expected.value, name
    assert experiment.judge(measured).verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    ("build", "verdict", "reason"),
    [
        (small, Verdict.HOLDS, "The transitions cut both"),
        (partial(small, bn_size=8), Verdict.IN_PART, "too few bottlenecks narrow"),
        (_broken(halving=False), Verdict.IN_PART, "not every transition"),
        (_broken(bottleneck=False), Verdict.IN_PART, "too few bottlenecks narrow"),
        (_broken(bottleneck=False, halving=False), Verdict.FAILS, "Too few"),
    ],
)
def test_what_is_taken_out_changes_the_verdict(build, verdict, reason, monkeypatch):
    monkeypatch.setattr(experiment, "VARIANTS", {})  # their costs do not decide
    judgement = experiment.judge(experiment.measure(Setup(), build))
    assert judgement.verdict is verdict and reason in judgement.reason


def test_networks_of_ones_own():
    with meta_build():
        inverted = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 4, 1))
        networks = {"dense": small(), "inverted": inverted, "widening": inverted[:2]}
        measured = experiment.measure_networks(Setup(), networks)
    assert [measured.value(f"inverted: {way}") for way in experiment.WAYS] == [1, 0, 1]
    for name, verdict in (("dense", Verdict.HOLDS), ("inverted", Verdict.IN_PART), ("widening", Verdict.FAILS)):
        only = experiment.measure_networks(Setup(), {name: networks[name]})
        assert experiment.judge_networks(only).verdict is verdict
    with pytest.raises(UsageError, match="plain has no 1×1"):
        experiment.measure_networks(Setup(), {"plain": nn.Conv2d(3, 4, 3, device="meta")})
