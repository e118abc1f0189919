"""MBConv without squeeze-excitation is the inverted residual."""

from functools import cache, partial
from types import SimpleNamespace

import pytest
from torch import nn

from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim34_mbconv_origin as experiment
from vertebra.models import efficientnet_b0
from vertebra.models.layers import Conv2dNormActivation, SqueezeExcitation
from vertebra.models.mbconv import MBConv, MBConvConfig


def test_the_numbers_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == pytest.approx(expected.value, rel=expected.tolerance), name
    assert experiment.judge(measured).verdict is Verdict.IN_PART


def uncounted(network, size):
    """Costs, which these tests do not look at."""
    return SimpleNamespace(rows=(), parameters=1, macs=1)


def unmixed():
    """B0 with a projection that is depthwise too."""
    network = efficientnet_b0()
    block = network.features[3][0]
    block.block[3] = Conv2dNormActivation(144, 144, 1, groups=144, norm_layer=nn.BatchNorm2d, activation_layer=None)
    return network


def test_if_nothing_mixed_without_the_gates_the_claim_would_hold(monkeypatch):
    monkeypatch.setattr(experiment, "inspect", uncounted)
    measured = experiment.measure(Setup(), b0=unmixed)
    assert experiment.judge(measured).verdict is Verdict.HOLDS


built = cache(efficientnet_b0)


def mbconv(inp, oup, stride, expand_ratio, activation=nn.ReLU6, se=None, behind=False):
    block = MBConv(
        MBConvConfig(expand_ratio, 3, stride, inp, oup, 1), 0.0, nn.BatchNorm2d, se, activation_layer=activation
    )
    if behind:
        block.block[-1].append(nn.ReLU6())
    return block


@pytest.mark.parametrize(
    "like",
    [
        partial(mbconv, activation=nn.SiLU),
        partial(mbconv, se=SqueezeExcitation),
        partial(mbconv, behind=True),
    ],
    ids=["SiLU", "SE", "ReLU6 behind the projection"],
)
def test_another_block_is_not_the_inverted_residual(like, monkeypatch):
    monkeypatch.setattr(experiment, "inspect", uncounted)
    measured = experiment.measure(Setup(), like, built)
    assert measured.value("blocks equal bit for bit") < measured.value("blocks")
    assert experiment.judge(measured).verdict is Verdict.FAILS
