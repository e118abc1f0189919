"""Which blocks have squeeze-excitation."""

import pytest
import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import add_squeeze_excitation, remove_squeeze_excitation, separate_mbconv
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim35_where_gates_are as experiment
from vertebra.models import create_model
from vertebra.models.state_dict import meta_build


def built(name, change=lambda network: network):
    with torch.device("meta"):
        return change(create_model(name))


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value, name
    assert experiment.judge(measured).verdict is Verdict.IN_PART


@pytest.mark.parametrize(
    ("name", "builder", "change", "verdict"),
    [
        ("B0", "efficientnet_b0", lambda net: remove_squeeze_excitation(net, (3,)), Verdict.HOLDS),
        ("V2-S", "efficientnet_v2_s", separate_mbconv, Verdict.FAILS),  # all blocks with a gate
        ("V2-S", "efficientnet_v2_s", remove_squeeze_excitation, Verdict.FAILS),
    ],
)
def test_with_other_gates_the_verdict_is_another(name, builder, change, verdict, monkeypatch):
    names = {"B0": "efficientnet_b0"} | ({name: builder} if name != "B0" else {})
    monkeypatch.setattr(experiment, "_NAMES", names)
    measured = experiment.measure(Setup(), **{name: built(builder, change)})
    assert experiment.judge(measured).verdict is verdict


def test_networks_of_ones_own():
    gated = built("mobilenet_v2", lambda net: add_squeeze_excitation(net, (2,)))
    measured = experiment.measure_networks(Setup(), {"gated": gated, "plain": built("mobilenet_v2")})
    assert measured.value("gated: InvertedResidual: with gate") == 2
    assert measured.value("plain: InvertedResidual: without") == 17
    assert experiment.judge_networks(measured).verdict is Verdict.IN_PART  # it depends on the network
    own = experiment.measure_networks(Setup(), {"gated": gated})
    assert experiment.judge_networks(own).verdict is Verdict.HOLDS


def test_a_network_without_blocks_is_refused():
    with meta_build(), pytest.raises(UsageError, match="has no blocks"):
        experiment.measure_networks(Setup(), {"plain": nn.Sequential(nn.Conv2d(3, 4, 1))})
