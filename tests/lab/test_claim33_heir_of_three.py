"""What MobileNetV2 has of GoogLeNet, ResNet and DenseNet."""

import pytest
import torch
from torch import nn

from vertebra.introspect import remove_shortcuts, replace_depthwise
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim33_heir_of_three as experiment
from vertebra.models import mobilenet_v2
from vertebra.models.state_dict import meta_build


class Concatenated(nn.Module):
    """A network behind a concatenation."""

    def __init__(self, network):
        super().__init__()
        self.network, self.last = network, nn.Conv2d(6, 3, 1)

    def forward(self, x):
        return self.network(self.last(torch.cat([x, x], 1)))


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value, name
    assert experiment.judge(measured).verdict is Verdict.IN_PART


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (Concatenated, Verdict.HOLDS, "adds shortcuts and concatenates"),
        (remove_shortcuts, Verdict.IN_PART, "neither adds shortcuts nor"),
        (lambda network: replace_depthwise(remove_shortcuts(network)), Verdict.FAILS, "no fewer MACs"),
        (lambda network: replace_depthwise(Concatenated(network)), Verdict.IN_PART, "no fewer MACs"),
    ],
)
def test_with_other_operations_the_verdict_is_another(change, verdict, words, monkeypatch):
    monkeypatch.setattr(experiment, "_FAMILIES", ("mobilenet_v2",))
    with meta_build():
        network = change(mobilenet_v2())
    judgement = experiment.judge(experiment.measure(Setup(), network))
    assert judgement.verdict is verdict and words in judgement.reason


def test_networks_of_ones_own():
    with meta_build():
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    measured = experiment.measure_networks(Setup(), {"tiny": network})
    assert experiment.judge_networks(measured).decided_by[0] == "tiny: additions"
    assert experiment.judge_networks(measured).verdict is Verdict.IN_PART  # few MACs alone
