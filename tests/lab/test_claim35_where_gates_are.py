"""Which blocks have squeeze-excitation."""

import pytest
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import add_squeeze_excitation, remove_squeeze_excitation, separate_mbconv
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim35_where_gates_are as experiment
from vertebra.models import EfficientNet, create_model
from vertebra.models.mbconv import FusedMBConvConfig, MBConvConfig
from vertebra.models.state_dict import meta_build


def built(name, change=lambda network: network):
    with meta_build():
        return change(create_model(name))


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value, name
    assert experiment.judge(measured).verdict is Verdict.IN_PART


def small_v2():
    """Fused blocks, then MBConv, as in EfficientNetV2."""
    rows = [FusedMBConvConfig(4, 3, 2, 8, 8, 2), MBConvConfig(4, 3, 2, 8, 8, 2)]
    return EfficientNet(rows, dropout=0.2)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda net: net, Verdict.IN_PART),
        (separate_mbconv, Verdict.FAILS),  # all blocks with a gate
        (remove_squeeze_excitation, Verdict.FAILS),
        (lambda net: add_squeeze_excitation(remove_squeeze_excitation(separate_mbconv(net)), (1,)), Verdict.HOLDS),
    ],
)
def test_with_other_gates_the_verdict_is_another(change, verdict, monkeypatch):
    monkeypatch.setattr(experiment, "_NAMES", {"V2-S": "efficientnet_v2_s"})
    with meta_build():
        network = change(small_v2())
    assert experiment.judge(experiment.measure(Setup(), efficientnet_v2_s=network)).verdict is verdict


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
