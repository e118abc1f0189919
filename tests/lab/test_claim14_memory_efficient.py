"""What DenseNet's memory_efficient keeps for the backward pass."""

from functools import partial

import pytest
from torch import nn

from vertebra.introspect import count_saved_bytes
from vertebra.lab import kept_by_stage
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim14_memory_efficient as experiment
from vertebra.lab.runs import run
from vertebra.lab.small_networks import small_densenet
from vertebra.lab.user_networks import random_images
from vertebra.models import DenseNet
from vertebra.models.densenet import DenseBlock, DenseLayer

QUICK = Setup(quick=True)
STEP = "training step, ratio"


def tiny(memory_efficient=False):
    return DenseNet(8, (2, 2), 8, num_classes=4, memory_efficient=memory_efficient)


@pytest.fixture(scope="module", autouse=True)
def few_layers():
    """What the usual ones keep is in the tests of `count_saved_bytes`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "LAYERS", (2, 4, 8, 16))
        yield


@pytest.fixture(scope="module")
def counted(few_layers):
    return experiment.measure(QUICK, tiny)


def timed(counted, low, high):
    return Measured({**counted.figures, STEP: Figure(1.2, "×", 9, (low, high))})


def test_the_time_decides_the_rest(counted):
    judgement = experiment.judge(counted)
    assert judgement.verdict is Verdict.IN_PART and "not measured" in judgement.reason
    assert experiment.judge(timed(counted, 1.1, 1.3)).verdict is Verdict.HOLDS
    assert experiment.judge(timed(counted, 0.9, 1.3)).verdict is Verdict.IN_PART


def test_a_network_or_a_block_that_keeps_everything_is_found():
    unchanged = experiment.measure(QUICK, lambda memory_efficient: tiny())
    assert unchanged.value("kept, DenseNet-121, ratio") == 1
    assert experiment.judge(unchanged).verdict is Verdict.FAILS

    def keeps_all(*sizes):
        return DenseBlock(*sizes[:-1], False)

    assert experiment.judge(experiment.measure(QUICK, tiny, keeps_all)).verdict is Verdict.FAILS


class Chain(nn.ModuleList):
    """Each layer reads the one before alone."""

    def __init__(self, layers, channels, bn_size, growth_rate, drop_rate, memory_efficient):
        super().__init__(DenseLayer(channels, channels, bn_size, drop_rate, memory_efficient) for _ in range(layers))

    def forward(self, x):
        for layer in self:
            x = layer([x])
        return x


def test_a_block_without_concatenations_does_not_grow_with_the_square():
    measured = experiment.measure(QUICK, tiny, Chain)
    assert measured.value("quadratic term, 48 layers") == pytest.approx(0, abs=1e-3)
    assert experiment.judge(measured).verdict is Verdict.IN_PART


def test_steps_are_timed_in_turns(monkeypatch):
    monkeypatch.setattr("gc.collect", int)  # slow in a test session
    monkeypatch.setattr(experiment, "time_training_steps", partial(_short, experiment.time_training_steps))
    monkeypatch.setitem(experiment.SHAPES, "cpu", (2, 3, 32, 32))
    measured = experiment.measure(Setup(), tiny)
    assert measured.figures[STEP].n >= 6 and measured.figures[STEP].interval
    assert STEP in experiment.judge(measured).decided_by


def _short(time_training_steps, setup, networks, shape, **length):
    return time_training_steps(setup, networks, shape, rounds=6)


def test_the_stages_of_a_network_sum_up_to_all_that_it_keeps():
    network = small_densenet((2, 2), 8).eval()
    images = random_images(network, 2, 16)
    stages = kept_by_stage.kept_by_stage(network, images)
    assert not network.training
    # The last ReLU is called by the network itself.
    assert list(stages) == ["stem", "denseblock1", "denseblock2", "classifier", kept_by_stage.OUTSIDE]
    assert sum(stages.values()) == count_saved_bytes(network.train(), images).total


class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def test_of_the_users_networks_those_with_checkpointing_are_compared(tiny_network):
    result = run(14, models=[tiny_network("densenet"), Plain()], quick=True)
    assert result.figures["DenseNet: kept, ratio"].value < 0.6
    assert result.verdict is Verdict.IN_PART  # Plain cannot be compared
    assert "Plain: kept, ratio" not in result.figures
    assert b"with checkpointing" in result.picture("svg")


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ({}, Verdict.OPEN),
        ({"kept, ratio": Figure(1)}, Verdict.FAILS),
        ({"kept, ratio": Figure(0.5)}, Verdict.IN_PART),
        ({"kept, ratio": Figure(0.5), STEP: Figure(1.2, "×", 9, (1.1, 1.3))}, Verdict.HOLDS),
        ({"kept, ratio": Figure(0.5), STEP: Figure(1.2, "×", 9, (0.9, 1.3))}, Verdict.IN_PART),
    ],
)
def test_the_rule_for_the_users_networks(figures, verdict):
    assert kept_by_stage.judge_kept(Measured(figures)).verdict is verdict
