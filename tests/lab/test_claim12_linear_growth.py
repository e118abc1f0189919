"""How DenseNet's channels grow."""

import pytest
import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.lab.channel_growth import share_kept
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim12_linear_growth as experiment
from vertebra.models import DenseNet, googlenet, resnet18
from vertebra.models.densenet import DenseBlock, DenseLayer
from vertebra.models.state_dict import meta_build


class _Growing(DenseBlock):
    """Each layer adds more than the one before."""

    def __init__(self, layers, channels, bn_size, growth_rate):
        super().__init__(0, channels, bn_size, growth_rate, 0)
        for i in range(layers):
            self[f"denselayer{i + 1}"] = DenseLayer(self.out_channels, growth_rate + i, bn_size, 0)
            self.out_channels += growth_rate + i


class _Doubled(DenseBlock):
    """Each layer adds twice the growth rate."""

    def __init__(self, layers, channels, bn_size, growth_rate):
        super().__init__(layers, channels, bn_size, 2 * growth_rate, 0)


class _Changed(DenseBlock):
    """The input is changed before the layers take it."""

    def forward(self, x):
        return super().forward(torch.relu(x))


class _Added(DenseBlock):
    """Layers are added to their input, as in ResNet."""

    def __init__(self, layers, channels, bn_size, growth_rate):
        super().__init__(0, channels, bn_size, growth_rate, 0)
        for i in range(layers):
            self[f"denselayer{i + 1}"] = DenseLayer(channels, channels, 1, 0)

    def forward(self, x):
        for layer in self.values():
            x = x + layer(x)
        return x


def _with_blocks(kind):
    def build(growth_rate, block_config=(3, 2), num_init_features=16):
        network = DenseNet(growth_rate, block_config, num_init_features)
        channels = num_init_features
        for i, layers in enumerate(block_config, 1):
            block = kind(layers, channels, 4, growth_rate, *([0] if kind is _Changed else []))
            setattr(network.features, f"denseblock{i}", block)
            after = f"transition{i}" if i < len(block_config) else "norm5"
            channels = block.out_channels
            replaced = type(network.features.transition1)(channels, channels // 2) if i < len(block_config) else None
            setattr(network.features, after, replaced or nn.BatchNorm2d(channels))
            channels = channels // 2 if replaced else channels
        network.classifier = nn.Linear(channels, 2)
        return network

    return build


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value, name
    assert measured.value(experiment.STEPS) == 4 * 58
    assert experiment.judge(measured).verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    ("kind", "verdict", "reason"),
    [
        (_Growing, Verdict.IN_PART, "do not grow linearly"),
        (_Doubled, Verdict.IN_PART, "not by the growth rate"),
        (_Changed, Verdict.IN_PART, "values are changed"),
        (_Added, Verdict.FAILS, "do not grow linearly, and values are changed"),
    ],
)
def test_blocks_of_another_kind_change_the_verdict(kind, verdict, reason):
    judgement = experiment.judge(experiment.measure(Setup(), _with_blocks(kind)))
    assert judgement.verdict is verdict and reason in judgement.reason


def test_what_a_block_puts_at_the_end_is_not_kept_at_its_place():
    class Behind(nn.Module):
        def forward(self, x):
            return torch.cat([-x, x], 1)

    assert share_kept(Behind(), 2) == 0


class _Anew(nn.Module):
    """Maps of ever more channels are joined, of which none was in the join before."""

    def __init__(self):
        super().__init__()
        widths = [4, 8, 12, 16]
        self.layers = nn.ModuleList(nn.Conv2d(n, n // 2 + 2, 1) for n in widths)

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([layer(x), layer(x)], 1)
        return x


def test_joins_of_maps_computed_anew_do_not_grow_by_concatenation():
    measured = experiment.measure_networks(Setup(), {"mine": _Anew().to("meta")})
    assert (measured.value("mine: steps"), measured.value("mine: equal steps")) == (3, 0)
    assert experiment.judge_networks(measured).verdict is Verdict.FAILS


def test_networks_of_ones_own():
    with meta_build():
        networks = {"dense": DenseNet(8, (3, 2), 8), "inception": googlenet()}
        measured = experiment.measure_networks(Setup(), networks)
        assert measured.value("dense: steps") == measured.value("dense: equal steps") == 5
        assert measured.value("inception: equal steps") == 0
        assert experiment.judge_networks(measured).verdict is Verdict.IN_PART
        with pytest.raises(UsageError, match="residual has no two concatenations"):
            experiment.measure_networks(Setup(), {"residual": resnet18()})
