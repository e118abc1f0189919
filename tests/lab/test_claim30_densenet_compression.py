"""Where DenseNet's 1×1 convolutions cut channels."""

from functools import partial

import pytest

from vertebra.errors import UsageError
from vertebra.introspect import simplify_densenet
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim30_densenet_compression as experiment
from vertebra.models import densenet121, mobilenet_v2, resnet18, vgg11
from vertebra.models.state_dict import meta_build


def _broken(bottleneck=True, halving=True, **options):
    return partial(_simplified, bottleneck, halving, **options)


def _simplified(bottleneck, halving, **options):
    return simplify_densenet(densenet121(**options), bottleneck=bottleneck, halving=halving)


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(measured.value(name) - expected.value) <= expected.tolerance * expected.value, name
    assert experiment.judge(measured).verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    ("build", "verdict", "reason"),
    [
        (partial(densenet121, bn_size=8), Verdict.IN_PART, "too few bottlenecks narrow"),
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
        networks = {"dense": densenet121(), "inverted": mobilenet_v2(), "residual": resnet18()}
        measured = experiment.measure_networks(Setup(), networks)
        assert measured.value("inverted: widen") == 17
        for name, verdict in (("dense", Verdict.HOLDS), ("inverted", Verdict.IN_PART), ("residual", Verdict.FAILS)):
            only = experiment.measure_networks(Setup(), {name: networks[name]})
            assert experiment.judge_networks(only).verdict is verdict
        with pytest.raises(UsageError, match="plain has no 1×1"):
            experiment.measure_networks(Setup(), {"plain": vgg11()})
