"""Channels of the width multiplier, and the rates of stochastic depth."""

from functools import partial

import pytest

from vertebra.lab.experiment import Measured, Setup, Verdict
from vertebra.lab.experiments import claim43_width_and_stochastic_depth as experiment
from vertebra.models import efficientnet_b0, mobilenet_v2
from vertebra.models.mbconv import MBConv


def b0(change):
    network = efficientnet_b0()
    blocks = [block for block in network.modules() if isinstance(block, MBConv)]
    for index, block in enumerate(blocks):
        change(block, index)
    return network


@pytest.fixture(scope="module")
def own():
    return experiment.measure(Setup())


def test_the_counts_are_the_published_ones(own):
    for name, expected in experiment.CLAIM.expected.items():
        assert own.value(name) == pytest.approx(expected.value, rel=expected.tolerance), name


def constant(block, index):
    block.stochastic_depth.p = 0.2


def test_with_other_channels_or_rates_the_verdict_is_another(own):
    other = experiment.measure(Setup(), partial(mobilenet_v2, round_nearest=1), partial(b0, constant))
    assert experiment.judge(own).verdict is Verdict.HOLDS
    assert experiment.judge(other).verdict is Verdict.FAILS
    of_rates = {name for name in own.figures if name.startswith("B0: ")}
    for one, another in ((own, other), (other, own)):
        mixed = {name: (one if name in of_rates else another).figures[name] for name in own.figures}
        assert experiment.judge(Measured(mixed)).verdict is Verdict.IN_PART


def plain(block, index):
    """The third block without its skip."""
    block.use_res_connect = block.use_res_connect and index != 2


def test_rounding_to_larger_multiples_is_another_and_a_block_whose_skip_is_taken_away_is_not_dropped():
    measured = experiment.measure(Setup(), partial(mobilenet_v2, round_nearest=32), partial(b0, plain))
    assert measured.value("convolutions of no multiple of 8") == 0
    assert experiment.judge(measured).verdict is Verdict.IN_PART
    assert measured.value("B0: blocks that dropping skips") == 8
