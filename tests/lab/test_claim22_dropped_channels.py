"""Accuracy without channels, by their gates and by their contributions, and the rule on networks that need fewer."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from vertebra.lab.dropped_channels import HIGHEST, LEAST, LOWEST, RANDOM, WHOLE, without_channels
from vertebra.lab.experiment import Measured, Setup, Verdict
from vertebra.lab.experiments import claim22_dropped_channels as experiment
from vertebra.lab.gated_network import GATED
from vertebra.lab.small_data import digits
from vertebra.lab.small_networks import SmallMBConvNet, seeded

STORED = Path(__file__).parent / "measurements"
TINY = partial(SmallMBConvNet, width=4, expand_ratio=2, repeats=1, squeeze_excitation=True, activation_layer=nn.SiLU)


class LowestAreZero(nn.Sigmoid):
    """Gates of which the lowest quarter of each image is 0."""

    def forward(self, x):
        gates = torch.sigmoid(x)
        lowest = gates.argsort(dim=1)[:, : round(0.25 * gates.shape[1])]
        return gates.scatter(1, lowest, 0.0)


def sparse_gates(num_classes=10, arm=GATED):
    """A network that drops the channels of the lowest gates by itself."""
    network = arm(num_classes=num_classes)
    for block in network.features[1:]:
        block.block[2].scale_activation = LowestAreZero()
    return network


def stored(name):
    return Measured.from_dict(json.loads((STORED / f"claim22_{name}.json").read_text()))


@pytest.fixture(scope="module")
def trained():
    return stored("trained")


def test_gates_rank_channels_and_the_lowest_are_needed(trained):
    judgement = experiment.judge(trained)
    assert judgement.verdict is Verdict.FAILS and "rank the channels" in judgement.reason
    for name, expected in experiment.CLAIM.expected.items():
        assert trained.value(name) == pytest.approx(expected.value), name


def test_where_the_lowest_gates_are_zero_the_claim_holds():
    assert experiment.judge(stored("sparse_gates")).verdict is Verdict.HOLDS


def test_where_lowest_and_highest_are_exchanged_gates_do_not_rank(trained):
    own = trained.series["costs"]
    costs = {**own, LOWEST: own[HIGHEST], HIGHEST: own[LOWEST]}
    judgement = experiment.judge(replace(trained, series={**trained.series, "costs": costs}))
    assert judgement.verdict is Verdict.FAILS and "do not even rank" in judgement.reason


def test_what_contributes_little_may_be_unneeded_whatever_its_gate(trained):
    costs = {**trained.series["costs"], LEAST: [0.2] * 5}
    judgement = experiment.judge(replace(trained, series={**trained.series, "costs": costs}))
    assert judgement.verdict is Verdict.IN_PART


def test_seeds_that_differ_and_networks_that_learned_nothing_decide_nothing(trained):
    costs = {**trained.series["costs"], LOWEST: [0.2, 5, 5, 5, 5]}
    judgement = experiment.judge(replace(trained, series={**trained.series, "costs": costs}))
    assert judgement.verdict is Verdict.OPEN and "seed" in judgement.reason
    accuracy = {**trained.series["accuracy"], WHOLE: [99, 99, 99, 99, 12]}
    judgement = experiment.judge(replace(trained, series={**trained.series, "accuracy": accuracy}))
    assert judgement.verdict is Verdict.OPEN and "learn" in judgement.reason


def test_dropping_what_is_zero_already_changes_nothing():
    images = digits().split(0)
    images = replace(images, val=images.val[:200], val_labels=images.val_labels[:200])
    found = without_channels(seeded(partial(sparse_gates, arm=TINY), 0).eval(), images)["accuracy"]
    assert found[LOWEST] == found[WHOLE]
    assert set(found) == {WHOLE, LOWEST, RANDOM, HIGHEST, LEAST}


def test_a_projection_that_reads_half_of_its_channels_is_seen():
    network = seeded(TINY, 0).eval()
    for block in network.features[1:]:
        weight = block.block[-1][0].weight
        with torch.no_grad():
            weight[:, ::2] = 0
            weight[1] = weight[0]
    images = digits().split(0)
    found = without_channels(network, replace(images, val=images.val[:20], val_labels=images.val_labels[:20]))
    assert found["unread"] == 50 and found["rank"] < 100
    assert found["accuracy"][LEAST] == found["accuracy"][WHOLE]


@pytest.mark.slow
def test_gates_that_drop_channels_change_the_verdict():
    assert experiment.judge(experiment.measure(Setup(seeds=2), sparse_gates)).verdict is Verdict.HOLDS
    assert experiment.judge(experiment.measure(Setup(seeds=3))).verdict is Verdict.FAILS
