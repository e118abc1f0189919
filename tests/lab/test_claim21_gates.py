"""Gates of a small network: whether they differ by channel, image and class, and the rule on networks with others."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import batch_statistics, image_shapes, record_gates
from vertebra.lab.experiment import Measured, Setup, Verdict
from vertebra.lab.experiments import claim21_gates as experiment
from vertebra.lab.fit import val_inputs
from vertebra.lab.gate_effects import OTHER, OWN, gate_effects, spreads_by_layer, untrained_spreads
from vertebra.lab.gated_network import GATED
from vertebra.lab.small_data import digits
from vertebra.lab.small_networks import SmallMBConvNet, seeded

STORED = Path(__file__).parent / "measurements"
TINY = partial(SmallMBConvNet, width=4, expand_ratio=2, repeats=1, squeeze_excitation=True, activation_layer=nn.SiLU)


class ChannelConstants(nn.Module):
    """A gate for each channel that is learned, whatever the image shows."""

    def __init__(self, channels):
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(-2, 2, channels))

    def forward(self, x):
        return torch.sigmoid(self.logits).expand(len(x), -1)[:, :, None, None]


class ConstantGates(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gates = ChannelConstants(channels)

    def forward(self, x):
        return x * self.gates(x)


def constant_gates(num_classes=10, arm=GATED):
    """The network with gates that do not look at the image."""
    network = arm(num_classes=num_classes)
    for block in network.features[1:]:
        block.block[2] = ConstantGates(block.block[2].fc2.out_channels)
    return network


def stored(name):
    return Measured.from_dict(json.loads((STORED / f"claim21_{name}.json").read_text()))


@pytest.fixture(scope="module")
def trained():
    return stored("trained")


def test_gates_that_learned_hold(trained):
    assert experiment.judge(trained).verdict is Verdict.HOLDS


def test_gates_that_do_not_look_at_the_image_hold_in_part():
    judgement = experiment.judge(stored("constant_gates"))
    assert judgement.verdict is Verdict.IN_PART and "whatever the image" in judgement.reason


@pytest.mark.parametrize(
    ("spreads", "verdict", "reason"),
    [
        ({"channels": [0.02, 0.009]}, Verdict.IN_PART, "not on the channel"),
        ({"images": [0.02, 0.009]}, Verdict.IN_PART, "whatever the image"),
        ({"shuffled classes": [0.001, 0.9]}, Verdict.IN_PART, "whatever the image"),
        ({"classes, untrained": [0.001, 0.9]}, Verdict.IN_PART, "no more than before"),
        ({"channels": [0, 0], "images": [0, 0]}, Verdict.FAILS, "neither"),
    ],
)
def test_one_seed_is_enough_to_change_the_verdict(trained, spreads, verdict, reason):
    two = {over: values[:2] for over, values in trained.series["spreads"].items()}
    judgement = experiment.judge(replace(trained, series={**trained.series, "spreads": two | spreads}))
    assert judgement.verdict is verdict and reason in judgement.reason


def test_gates_of_their_own_channel_alone_do_not_hold(trained):
    figures = {**trained.figures, experiment.FOLLOW: replace(trained.figures[experiment.FOLLOW], value=0.0)}
    judgement = experiment.judge(replace(trained, figures=figures))
    assert judgement.verdict is Verdict.IN_PART and "from all channels" in judgement.reason


def test_accuracy_is_told_and_does_not_decide(trained):
    cost = f"cost of {OTHER}"
    lower = {**trained.figures, cost: replace(trained.figures[cost], interval=(1.0, 2.0))}
    judgement = experiment.judge(replace(trained, figures=lower))
    assert judgement.verdict is Verdict.HOLDS and "accuracy falls" in judgement.reason


def test_what_is_measured_tells_constant_gates_from_others():
    images = digits().split(0)
    images = replace(images, val=images.val[:60], val_labels=images.val_labels[:60])
    network = seeded(TINY, 0)
    with batch_statistics(network):
        network(val_inputs(network, images))  # for statistics that are not those of other images
    found = gate_effects(network.eval(), images)
    assert found["follow"] > 90 and min(found["spreads"]["images"]) > 0
    other = gate_effects(seeded(partial(constant_gates, arm=TINY), 0).eval(), images)
    assert other["follow"] == 0 and max(other["spreads"]["images"]) < 1e-6
    assert other["accuracy"][OTHER] == other["accuracy"][OWN]
    assert min(other["spreads"]["channels"]) > 0.1


def test_shuffled_labels_have_less_spread_than_classes_that_differ():
    labels = torch.arange(4).repeat(25)
    gates = {"se": 0.1 * labels[:, None] + 0.01 * torch.rand(100, 3, generator=torch.Generator().manual_seed(0))}
    spreads = spreads_by_layer(gates, labels)
    assert spreads["classes"][0] > 2 * spreads["shuffled classes"][0] > 0
    assert set(spreads_by_layer(gates)) == {"channels", "images"}


def test_a_users_network_is_asked_for_its_gates(monkeypatch):
    monkeypatch.setattr(image_shapes, "SIZES", (32,))
    networks = {"gated": seeded(TINY, 0), "constant": seeded(partial(constant_gates, arm=TINY), 0)}
    measured = experiment.measure_networks(Setup(), networks)
    assert measured.value("constant: spread over channels") > 0.1
    assert measured.value("constant: spread over images") < 1e-6
    assert measured.value("gated: spread over images") > 1e-3  # with the statistics of the batch
    one = experiment.measure_networks(Setup(), {"constant": networks["constant"]})
    judgement = experiment.judge_networks(one)
    assert judgement.verdict is Verdict.IN_PART and "hardly depend on the image" in judgement.reason


def test_a_network_without_gates_is_refused_by_name():
    with pytest.raises(UsageError, match="plain: no gates were found"):
        experiment.measure_networks(Setup(), {"plain": SmallMBConvNet(4, 1, 1)})


def test_gates_of_a_network_that_is_random_are_recorded_with_the_statistics_of_the_batch():
    images = digits().split(0)
    images = replace(images, val=images.val[:40], val_labels=images.val_labels[:40])
    own = untrained_spreads(TINY, images)
    network = seeded(partial(TINY, num_classes=10), 0)
    with batch_statistics(network):
        gates = record_gates(network, val_inputs(network, images))
    assert own["images"] == spreads_by_layer(gates)["images"]


@pytest.mark.slow
def test_constant_gates_change_the_verdict():
    broken = experiment.measure(Setup(seeds=2), constant_gates)
    assert "whatever the image" in experiment.judge(broken).reason
    assert experiment.judge(experiment.measure(Setup(seeds=3))).verdict is Verdict.HOLDS
