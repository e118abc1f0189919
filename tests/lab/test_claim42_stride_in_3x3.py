"""Where ResNet's bottlenecks have their stride."""

from functools import partial

import pytest
import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import move_stride_to_1x1
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim42_stride_in_3x3 as experiment
from vertebra.models import ResNet
from vertebra.models.resnet import Bottleneck


class _Narrow(ResNet):
    widths = (4, 4, 4, 4)


small = partial(_Narrow, Bottleneck, (1, 1, 1, 1), num_classes=2)


@pytest.fixture(autouse=True)
def _small(request, monkeypatch):
    if "published" not in request.node.name:
        monkeypatch.setattr(experiment, "resnet50", small)


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(measured.value(name) - expected.value) <= expected.tolerance * expected.value, name
    assert measured.value("bottlenecks with a stride") == 3
    assert experiment.judge(measured).verdict is Verdict.HOLDS


def test_with_the_stride_in_the_1x1_it_does_not_hold():
    judgement = experiment.judge(experiment.measure(Setup(), lambda: move_stride_to_1x1(small())))
    assert judgement.verdict is Verdict.FAILS


def test_one_block_of_the_paper_is_enough_to_leave_positions_out():
    judgement = experiment.judge(experiment.measure(Setup(), lambda: move_stride_to_1x1(small(), [2])))
    assert judgement.verdict is Verdict.IN_PART and "Only some" in judgement.reason


def test_a_stride_in_the_last_1x1_is_not_in_the_3x3():
    def build():
        network = small()
        for layer in (network.layer2, network.layer3, network.layer4):
            layer[0].conv2.stride, layer[0].conv3.stride = (1, 1), (2, 2)
        return network

    measured = experiment.measure(Setup(), build)
    assert (
        measured.value("bottlenecks with a stride") == 3
        and measured.value("bottlenecks with the stride in the 3×3") == 0
    )
    assert experiment.judge(measured).verdict is not Verdict.HOLDS


def test_a_dilated_3x3_leaves_positions_out_with_the_stride_in_its_place():
    def build():
        network = small()
        network.layer2[0].conv2.dilation = network.layer2[0].conv2.padding = (2, 2)
        return network

    judgement = experiment.judge(experiment.measure(Setup(), build))
    assert judgement.verdict is Verdict.IN_PART and "All have it in the 3×3" in judgement.reason


def test_networks_of_ones_own():
    measured = experiment.measure_networks(Setup(), {"own": small(), "paper": move_stride_to_1x1(small())})
    assert measured.value("own: least read") == 100 and measured.value("paper: least read") == 25
    assert experiment.judge_networks(measured).verdict is Verdict.IN_PART
    border = nn.Sequential(nn.Conv2d(3, 2, 3, 2), nn.Flatten(), nn.LazyLinear(2))
    border(torch.zeros(1, 3, 28, 28))  # of 28 rows and columns the last is left out
    measured = experiment.measure_networks(Setup(), {"border": border})
    assert measured.value("border: least read") == pytest.approx(100 * (27 / 28) ** 2)
    assert experiment.judge_networks(measured).verdict is Verdict.HOLDS
    with pytest.raises(UsageError, match="has a stride"):
        experiment.measure_networks(Setup(), {"mine": nn.Conv2d(3, 2, 3)})
