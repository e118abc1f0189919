"""What a depthwise convolution costs beside a dense one."""

import pytest
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import replace_depthwise
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim16_depthwise_cost as experiment
from vertebra.models import mobilenet_v2, vgg11
from vertebra.models.state_dict import meta_build


def keep(network):
    return network


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(measured.value(name) - expected.value) <= expected.tolerance * expected.value, name
    assert experiment.judge(measured).verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    ("depthwise", "dense", "verdict"),
    [
        (replace_depthwise, keep, Verdict.FAILS),  # all dense
        (keep, keep, Verdict.IN_PART),  # as if the network saved nothing
        (lambda network: mobilenet_v2(width_mult=0.1), replace_depthwise, Verdict.IN_PART),  # 8 channels
    ],
)
def test_where_nothing_is_saved_the_verdict_is_another(depthwise, dense, verdict):
    assert experiment.judge(experiment.measure(Setup(), depthwise, dense)).verdict is verdict


def test_a_network_of_ones_own():
    with meta_build():
        thin = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1, groups=64))
        narrow = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3))
    own = experiment.measure_networks(Setup(), {"thin": thin})
    assert own.value("thin: dense / depthwise") == pytest.approx((3 + 64) / (3 + 1))
    assert experiment.judge_networks(own).verdict is Verdict.HOLDS
    both = experiment.measure_networks(Setup(), {"thin": thin, "narrow": narrow})
    assert experiment.judge_networks(both).verdict is not Verdict.HOLDS
    assert thin[1].groups == 64  # the user's network stays as it is


def test_a_network_without_depthwise_convolutions_is_refused():
    with meta_build(), pytest.raises(UsageError, match="no depthwise convolution"):
        experiment.measure_networks(Setup(), {"vgg11": vgg11(init_weights=False)})
