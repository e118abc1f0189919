"""Where VGG-16 keeps its parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vertebra.errors import UsageError
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim01_vgg_parameters as experiment
from vertebra.lab.picture import picture
from vertebra.lab.registry import find
from vertebra.lab.runs import run
from vertebra.models import vgg16
from vertebra.models.state_dict import meta_build


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(measured.value(name) - expected.value) <= expected.tolerance * expected.value, name
    assert experiment.judge(measured).verdict is Verdict.IN_PART


def test_positions_of_maxima_are_kept_too():
    """Of each 2 × 2 an int64: 8 bytes, beside the 4 of the maximum."""
    network = nn.Sequential(nn.Conv2d(3, 1, 1, device="meta"), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(112**2, 2))
    measured = experiment.measure(Setup(), network.to("meta"))
    kept = [measured.value(f"kept for backward{what}") for what in ("", ", without positions of maxima")]
    assert kept[0] - kept[1] == pytest.approx(8 * 112**2 / 1e6)


def test_without_the_wide_layers_the_claim_does_not_hold():
    with meta_build():
        network = vgg16()
    network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 1000, device="meta")
    assert experiment.judge(experiment.measure(Setup(), network)).verdict is Verdict.FAILS


def test_where_they_had_the_activations_too_it_would_hold():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 50, device="meta"))
    assert experiment.judge(experiment.measure(Setup(), network)).verdict is Verdict.HOLDS


def test_where_they_had_the_activations_alone_it_would_hold_in_part():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 64, 224, device="meta")
            self.fc = nn.Linear(64, 1000, device="meta")

        def forward(self, x):
            return self.fc(self.conv(x).flatten(1))

    judgement = experiment.judge(experiment.measure(Setup(), Wide()))
    assert judgement.verdict is Verdict.IN_PART and "activations and few" in judgement.reason


class Convolutions(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Dense(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(3 * 224 * 224, 2))


def test_of_the_users_networks_each_kind_of_layer_is_counted():
    result = run(1, models=[Convolutions()])
    assert result.verdict is Verdict.FAILS
    assert result.figures["Convolutions: parameters"].value == 8 * 27 + 8 + 16
    assert result.measured.series["networks"]["Convolutions"]["kinds"]["dense conv"]["MACs"] == 100
    assert result.measured.series["networks"]["Convolutions"]["stages"] == {"0": 224, "1": 16, "2": 0}
    assert b"Convolutions, parameters" in picture(find(["1"])[0], result, "svg")


def test_where_the_users_networks_differ_the_verdict_says_so():
    assert run(1, models=[Dense()]).verdict is Verdict.HOLDS
    both = run(1, models=[Dense(), Convolutions()])
    assert both.verdict is Verdict.IN_PART and both.reason.startswith("It depends on the network")


def test_a_network_that_takes_no_images_is_refused():
    with pytest.raises(UsageError, match="Linear"):
        run(1, models=[nn.Linear(3, 4)])


class WithAuxiliaryHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head, self.auxiliary = nn.Linear(4, 7, bias=False), nn.Linear(4, 100, bias=False)

    def forward(self, x):
        x = self.trunk(x)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


def test_layers_that_do_not_run_are_in_neither_side_of_a_share():
    measured = experiment.measure_networks(Setup(), {"net": WithAuxiliaryHead()})
    assert measured.value("net: share of the parameters") == pytest.approx(100 * 28 / 40)
    assert measured.value("net: parameters") == 40
    assert measured.value("net: parameters that do not run") == 400


class Functional(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return F.linear(x.mean((2, 3)), self.weight)


def test_a_layer_that_is_a_function_is_fully_connected_too():
    measured = experiment.measure_networks(Setup(), {"net": Functional(torch.ones(7, 3))})
    assert measured.value("net: share of the parameters") == 100
    assert measured.series["networks"]["net"]["kinds"]["fully connected"]["MACs"] == 100
