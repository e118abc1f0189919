"""The smallest image that a network takes."""

import pytest
from torch import nn

from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim39_smallest_input as experiment
from vertebra.lab.runs import run
from vertebra.models import create_model
from vertebra.models.state_dict import meta_build


def _network(name):
    with meta_build():
        network = create_model(name)
    return network.to_empty(device="cpu")


def test_the_stated_size_of_v2_is_no_limit_and_that_of_googlenet_is():
    networks = {name: _network(name) for name in ("googlenet", "efficientnet_v2_s")}
    measured = experiment.measure(Setup(), networks)
    for name in networks:
        assert measured.value(f"{name}: smallest input") == experiment.CLAIM.expected[f"{name}: smallest input"].value
        assert measured.value(f"{name}: of the next 8 sizes run") == 8
    judgement = experiment.judge(measured)
    assert judgement.verdict is Verdict.IN_PART
    assert judgement.decided_by[0] == "efficientnet_v2_s: smallest input"  # what differs comes first


def test_with_a_pooling_less_the_stated_size_is_no_limit():
    network = _network("vgg11")
    network.classifier = nn.Linear(512 * 7 * 7, 2)  # behind the adaptive pooling, so no size depends on it
    assert experiment.judge(experiment.measure(Setup(), {"vgg11": network})).verdict is Verdict.HOLDS
    network.features[-1] = nn.Identity()
    measured = experiment.measure(Setup(), {"vgg11": network})
    assert measured.value("vgg11: smallest input") == 16
    assert experiment.judge(measured).verdict is Verdict.FAILS
    assert experiment.judge_networks(measured).verdict is Verdict.FAILS
    assert network.min_size == 32  # its own check is back


@pytest.mark.slow
def test_all_families():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value, name
    assert experiment.judge(measured).verdict is Verdict.IN_PART


class FixedSize(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 3))


def test_a_network_that_states_nothing_gets_a_figure_and_no_verdict():
    result = run(39, models=[FixedSize()])
    assert result.verdict is Verdict.OPEN
    assert result.figures["FixedSize: smallest input"].value == 28
    assert result.figures["FixedSize: of the next 8 sizes run"].value == 0
    assert b">stated<" not in result.picture()
    assert b">stated<" in run(39, models=[FixedSize(), _network("resnet18")]).picture()
