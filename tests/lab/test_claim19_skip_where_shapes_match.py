"""Which blocks have a skip connection."""

import pytest
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import remove_shortcuts
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim19_skip_where_shapes_match as experiment
from vertebra.models import mobilenet_v2, resnet18, vgg11
from vertebra.models.mobilenetv2 import InvertedResidual
from vertebra.models.state_dict import meta_build


class Projected(InvertedResidual):
    """With a skip also where the channels change."""

    def __init__(self, inp, oup, *args, **options):
        super().__init__(inp, oup, *args, **options)
        self.projection = nn.Conv2d(inp, oup, 1, self.stride)

    def forward(self, x):
        return self.projection(x) + self.conv(x)


def verdict_of(network):
    return experiment.judge(experiment.measure(Setup(), network)).verdict


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value, name
    assert experiment.judge(measured).verdict is Verdict.HOLDS


def test_a_skip_where_shapes_differ_breaks_the_claim():
    with meta_build():
        network = mobilenet_v2(block=Projected)
    assert verdict_of(network) is Verdict.FAILS


def test_where_a_skip_is_taken_away_it_holds_in_part():
    with meta_build():
        network = mobilenet_v2()
    network.features[3].use_res_connect = False
    assert verdict_of(network) is Verdict.IN_PART


def test_where_all_are_taken_away_there_is_nothing_to_ask():
    with meta_build():
        network = remove_shortcuts(mobilenet_v2())
    with pytest.raises(UsageError, match="no residual block"):
        experiment.measure(Setup(), network)


def test_networks_of_ones_own():
    with meta_build():
        networks = {"resnet18": resnet18(), "mobilenet_v2": mobilenet_v2()}
        vgg = vgg11(init_weights=False)
    measured = experiment.measure_networks(Setup(), networks)
    assert measured.value("resnet18: resolution changes: projection") == 3
    assert experiment.judge_networks(measured).verdict is Verdict.IN_PART  # it depends on the network
    own = experiment.measure_networks(Setup(), {"resnet18": networks["resnet18"]})
    assert experiment.judge_networks(own).verdict is Verdict.FAILS
    with pytest.raises(UsageError, match="no residual block"):
        experiment.measure_networks(Setup(), {"vgg11": vgg})
