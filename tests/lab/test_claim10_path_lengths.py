"""What passes a residual network through its additions."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.lab import residual_paths
from vertebra.lab.experiment import Measured, Setup, Verdict
from vertebra.lab.experiments import claim10_path_lengths as experiment
from vertebra.lab.small_data import digits
from vertebra.lab.small_networks import SmallResNet, seeded
from vertebra.lab.user_networks import small_images

STORED = json.loads((Path(__file__).parent / "measurements" / "claim10_path_lengths.json").read_text())
net = partial(SmallResNet, 14, 4)


def stored(name):
    return Measured.from_dict(STORED[name])


def few():
    images = digits().split(0)
    return replace(images, val=images.val[:20], val_labels=images.val_labels[:20])


def test_as_measured_it_holds_in_part():
    assert experiment.judge(stored("measured")).verdict is Verdict.IN_PART


def test_a_residual_arm_without_skips_is_lost_without_a_block():
    assert experiment.judge(stored("residual without skips")).verdict is Verdict.FAILS


def test_blocks_that_add_nothing_leave_the_input_whole():
    """The identity in each block: what enters a stage leaves it, whichever block is deleted."""
    identity = seeded(partial(SmallResNet, 20, 4, zero_init_residual=True), 0).eval()
    found = residual_paths.deleted_and_passed(identity, few())
    assert len(found["deleted"]) == 7 and len(set(found["deleted"])) == 1
    assert found["passed"]["survives"] == pytest.approx([100] * 3)
    assert residual_paths.path_figures(found["passed"])["median path"].value == 0  # no branch passes a gradient
    series = {
        "whole": {"residual": [98.0]},
        "median": {"residual": [98.0]},
        "survives": [found["passed"]["survives"]],
    }
    assert experiment.judge(Measured({}, series)).verdict is Verdict.HOLDS


def test_networks_that_learned_nothing_decide_nothing():
    measured = stored("measured")
    whole = {**measured.series["whole"], "residual": [98.0, 10.0, 98.0]}
    judgement = experiment.judge(replace(measured, series={**measured.series, "whole": whole}))
    assert judgement.verdict is Verdict.OPEN and "learn" in judgement.reason


def test_deleting_a_block_leaves_the_network_as_it_was_and_is_leaving_out_its_branch():
    network = seeded(net, 0).eval()
    before = [name for name, _ in network.named_modules()]
    accuracies = residual_paths.accuracies_without_blocks(network, few())
    assert len(accuracies) == 4 and [name for name, _ in network.named_modules()] == before


def test_a_plain_network_has_no_paths():
    found = residual_paths.deleted_and_passed(seeded(partial(net, residual=False), 0).eval(), few())
    assert found["passed"] is None and len(found["deleted"]) == 4
    assert residual_paths.mean_shares([]) == residual_paths.mean_figures([]) == {}


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.branch = nn.Conv2d(2, 2, 1, bias=False)
        nn.init.dirac_(self.branch.weight)
        with torch.no_grad():
            self.branch.weight.mul_(factor)

    def forward(self, x):
        return x + self.branch(x)


def chain(factor, count=4):
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    return nn.Sequential(nn.Conv2d(3, 2, 1), *(Scaled(factor) for _ in range(count)), *head)


@pytest.fixture()
def _small(monkeypatch):
    monkeypatch.setattr(residual_paths, "small_images", partial(small_images, side=8))


def test_shares_are_those_of_the_binomial(_small):
    """Each branch scales by 3: a path of k branches carries 3^k, and C(4, k) paths have that length."""
    measured = experiment.measure_networks(Setup(), {"own": chain(3.0)})
    shares = measured.series["networks"]["own"]["paths"]
    assert list(shares.values()) == pytest.approx([100 * n / 256 for n in (1, 12, 54, 108, 81)])
    assert measured.value("own: smallest share of a skip in its sum") == pytest.approx(10)


def test_lengths_that_were_not_measured_lie_between():
    """20 branches, of which 13 lengths are measured."""
    found = residual_paths.network_paths(chain(1.0, 20), "cpu").series["paths"]
    assert len(found) == 21 and found["10"] == pytest.approx(100 * 184756 / 2**20)


def test_networks_of_ones_own(_small):
    verdicts = {3.0: Verdict.FAILS, 0.1: Verdict.HOLDS}
    for factor, verdict in verdicts.items():
        measured = experiment.measure_networks(Setup(), {"own": chain(factor)})
        assert experiment.judge_networks(measured).verdict is verdict, factor
    both = experiment.measure_networks(Setup(), {"one": chain(3.0), "other": chain(0.1)})
    assert experiment.judge_networks(both).verdict is Verdict.IN_PART
    with pytest.raises(UsageError, match="no residual block"):
        experiment.measure_networks(
            Setup(), {"plain": nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten(), nn.LazyLinear(2))}
        )


def test_an_untrained_resnet_changes_its_input(_small):
    measured = experiment.measure_networks(Setup(), {"own": seeded(net, 0)})
    assert measured.value("own: input left behind a stage, least") < 90


@pytest.mark.slow
def test_a_residual_network_without_skips_for_real():
    arms = {"residual": experiment.ARMS["plain"], "plain": experiment.ARMS["plain"]}
    assert experiment.judge(experiment.measure(Setup(seeds=1), arms)).verdict is Verdict.FAILS
