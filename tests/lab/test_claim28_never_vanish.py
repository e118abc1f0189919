"""Gradients that vanish although the input is added."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from vertebra.lab.block_gradients import gradient_through, zeroed_by_last_relu
from vertebra.lab.experiment import Measured, Setup, Verdict
from vertebra.lab.experiments import claim28_never_vanish as experiment
from vertebra.lab.small_networks import SmallResNet
from vertebra.models import resnet18
from vertebra.models.resnet import BasicBlock

ONE_SEED = replace(Setup(), seeds=1)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    narrow = partial(SmallResNet, 20, 4)
    monkeypatch.setattr(experiment, "RESIDUAL", narrow)
    monkeypatch.setattr(experiment, "NETWORKS", {"ResNet-18": resnet18, "ResNet-50": narrow})


def measured(factor=-1, **options):
    return experiment.measure(ONE_SEED, factor, partial(SmallResNet, 20, 4, **options))


@pytest.fixture(scope="module")
def whole():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "NETWORKS", {"ResNet-18": resnet18, "ResNet-50": partial(SmallResNet, 20, 4)})
        patch.setattr(experiment, "RESIDUAL", partial(SmallResNet, 20, 4))
        return measured()


def test_no_batch_norm_gets_an_eps_of_0_which_older_versions_of_torch_refuse(monkeypatch):
    batch_norm = torch.nn.functional.batch_norm

    def strict(*arguments):
        assert arguments[-1] > 0
        return batch_norm(*arguments)

    monkeypatch.setattr(torch.nn.functional, "batch_norm", strict)
    assert gradient_through(1.0, last_relu=True)[1] == 2


def test_the_negative_of_the_input_stops_everything(whole):
    assert whole.value("F = -x: largest output") == whole.value("F = -x: largest gradient") == 0
    assert whole.value("ResNet-18: convolutional shortcuts") == 3
    judgement = experiment.judge(whole)
    assert judgement.verdict is Verdict.FAILS and "keep their gradients" in judgement.reason


def _with_block(whole, factor):
    """The same, with another branch."""
    figures = dict(whole.figures)
    for name, last_relu in (("", True), (" of the sum", False)):
        key = f"F = -x: largest gradient{name}"
        figures[key] = replace(figures[key], value=gradient_through(factor, last_relu=last_relu)[1])
    return experiment.judge(Measured(figures, whole.series))


def test_another_branch_changes_the_verdict(whole):
    assert _with_block(whole, 0.5).verdict is Verdict.HOLDS
    assert _with_block(whole, -0.5).verdict is Verdict.HOLDS
    below = _with_block(whole, -2)
    assert below.verdict is Verdict.IN_PART and "ReLU" in below.reason


def test_gradients_through_one_block_are_those_of_algebra():
    for factor in (-1, -0.5, 0, 3):
        _, gradient = gradient_through(factor, last_relu=False)
        assert gradient == 1 + factor


def test_without_skips_there_is_no_tendency_either():
    plain = measured(residual=False)
    judgement = experiment.judge(plain)
    assert judgement.verdict is Verdict.FAILS and "lose their gradients" in judgement.reason
    assert _with_block(plain, 0.5).verdict is Verdict.FAILS


def test_the_last_relu_stops_what_is_negative():
    block = BasicBlock(2, 2).eval()
    nn.init.constant_(block.bn2.weight, 0)
    block.bn2.bias.data = torch.tensor([-100.0, 100.0])
    assert zeroed_by_last_relu(nn.Sequential(block), torch.rand(3, 2, 4, 4)) == [0.5]
