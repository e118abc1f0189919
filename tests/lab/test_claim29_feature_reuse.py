"""What DenseNet's blocks keep and who reads it."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from vertebra.introspect import dense_sources
from vertebra.lab import dense_reuse
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim29_feature_reuse as experiment
from vertebra.lab.small_data import Images
from vertebra.lab.small_networks import seeded, small_densenet
from vertebra.models import DenseNet
from vertebra.models.densenet import DenseBlock

QUICK = Setup(quick=True)
STORED = Path(__file__).parent / "measurements" / "claim29_next_layer_only.json"


def tiny(blocks=(2, 3)):
    return DenseNet(4, blocks, 8, num_classes=3)


def test_the_counts_are_those_of_the_paper():
    measured = experiment.measure(QUICK)
    for name, expected in experiment.CLAIM.expected.items():
        if name in measured.figures:
            assert measured.value(name) == expected.value, name
    assert measured.value(experiment.KEPT) == measured.value(experiment.MAPS) == 58 + 4
    judgement = experiment.judge(measured)
    assert judgement.verdict is Verdict.IN_PART and "not measured" in judgement.reason


def test_in_a_single_block_all_later_layers_are_reached():
    measured = experiment.measure(QUICK, partial(tiny, (5,)))
    assert measured.value(experiment.CONNECTED) == measured.value(experiment.POSSIBLE) == 15
    assert experiment.judge(measured).verdict is Verdict.HOLDS


@pytest.mark.parametrize("change", ["add", "mix"])
def test_a_block_that_adds_or_mixes_is_found(monkeypatch, change):
    concatenate = DenseBlock.forward

    def adds(self, x):
        out = concatenate(self, x)
        return out + x.mean() if change == "add" else out.flip(1)

    monkeypatch.setattr(DenseBlock, "forward", adds)
    measured = experiment.measure(QUICK, tiny)
    assert measured.value("first channels equal to the block's input") == 0
    assert experiment.judge(measured).verdict is Verdict.FAILS


def test_weights_that_are_zero_connect_nothing():
    network = tiny()
    pair = next(pair for pair in dense_sources(network) if pair.reader.endswith("denselayer2.conv1"))
    with torch.no_grad():
        network.get_submodule(pair.reader).weight[:, pair.start : pair.stop] = 0
    assert dense_reuse.layer_connections(tiny()) == (3 + 6, 15)
    assert dense_reuse.layer_connections(network) == (3 + 6 - 1, 15)


def reads_next_alone(blocks=(4, 4, 4), num_classes=10):
    """A small DenseNet in which the output of a layer is zero for all that read it but the next layer."""
    network = small_densenet(blocks, 8, num_classes=num_classes)
    seen = set()
    for pair in dense_sources(network):
        if pair.source in seen and ".denselayer" in pair.source:
            network.get_submodule(pair.reader).register_forward_pre_hook(partial(_zero, pair.start, pair.stop))
        seen.add(pair.source)
    return network


def _zero(start, stop, module, args):
    mask = torch.ones(args[0].shape[1], device=args[0].device)
    mask[start:stop] = 0
    return args[0] * mask.view(-1, *[1] * (args[0].ndim - 2))


def with_lost(value, low, high, connected=535):
    counts = {experiment.KEPT: 62, experiment.MAPS: 62, experiment.CONNECTED: connected, experiment.POSSIBLE: 1711}
    figures = {name: Figure(count) for name, count in counts.items()}
    return Measured({**figures, experiment.LATER: Figure(value, "points", 3, (low, high))})


def test_reuse_is_decided_by_the_interval():
    assert experiment.judge(with_lost(5, 4, 6, 1711)).verdict is Verdict.HOLDS
    assert experiment.judge(with_lost(5, -1, 11, 1711)).verdict is Verdict.IN_PART
    assert experiment.judge(with_lost(5, 4, 6)).reason.endswith("Later layers need them.")
    unkept = with_lost(0, -1, 1)
    unkept = Measured({**unkept.figures, experiment.KEPT: Figure(0)})
    assert experiment.judge(unkept).verdict is Verdict.FAILS


def test_a_trained_network_that_reads_the_next_layer_alone_is_found():
    measured = Measured.from_dict(json.loads(STORED.read_text(encoding="utf-8")))
    assert measured.value(experiment.LATER) == 0 < measured.value("accuracy lost without a layer's output")
    assert experiment.judge(measured).reason.endswith("Later layers are not shown to need them.")


def test_what_is_lost_and_weighed_by_source():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    labels = np.arange(20) % 10
    images = Images("noise", tuple("0123456789"), 0, pixels, labels, pixels, labels)
    found = dense_reuse.measure_reuse(seeded(partial(small_densenet, (2, 2), 4), 0), images)
    blocks = ["features.denseblock1", "features.denseblock2"]
    layers = [f"{block}.denselayer{number}" for block in blocks for number in (1, 2)]
    assert sorted(found["lost"]) == sorted([*blocks, *layers])
    assert set(found["lost"]) - set(found["lost_later"]) == {layers[1], layers[3]}  # one reader alone
    assert set(found["weights"]["classifier"]) == {blocks[1], *layers[2:]}
    lost = {"features.denseblock1": 4.0, layers[0]: 1.0, layers[2]: 2.0}
    assert (dense_reuse.mean_lost(lost, "layer"), dense_reuse.mean_lost(lost, "input")) == (1.5, 4)


def test_the_share_of_layers_with_the_least_weight_on_a_transition():
    rows = {
        "b1.denselayer2.conv1": {"b1": 0.1, "b1.denselayer1": 0.2},
        "b2.denselayer1.conv1": {"b2": 0.1},
        "b2.denselayer2.conv1": {"b2": 0.1, "b2.denselayer1": 0.2},
        "b2.denselayer3.conv1": {"b2": 0.3, "b2.denselayer1": 0.2, "b2.denselayer2": 0.4},
    }
    assert dense_reuse.least_on_input(rows) == 50


@pytest.mark.slow
@pytest.mark.parametrize(("small", "reused"), [(experiment.SMALL, True), (reads_next_alone, False)])
def test_trained_for_real(small, reused):
    measured = experiment.measure(Setup(), small=small)
    assert (measured.figures[experiment.LATER].interval[0] > 0) is reused
