"""Adaptive pooling over input sizes."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torch import nn
from torch.nn import functional as F

from vertebra.lab.experiment import Measured, Setup, Verdict
from vertebra.lab.experiments import claim03_adaptive_pooling as experiment
from vertebra.lab.small_networks import SmallVGG
from vertebra.models import VGG
from vertebra.models.vgg import make_layers

STORED = Path(__file__).parent / "measurements" / "claim03_any_size.json"
QUICK = replace(Setup(), quick=True)


def _vgg():
    """A thin trunk before the pooling and the fully connected layers of VGG."""
    return VGG(make_layers([8, "M", 8, "M", 8, "M", 8, "M", 512, "M"]))


@pytest.fixture(scope="module")
def shapes():
    return experiment.measure(QUICK, _vgg)


def test_the_shapes_are_as_expected(shapes):
    for name, expected in experiment.CLAIM.expected.items():
        assert shapes.value(name) == expected.value, name
    assert [tuple(rows) for rows in shapes.series["bins"]] == [(i, i + 2) for i in range(7)]
    assert "1x32768 and 25088x4096" in shapes.series["errors"]["256, without"]
    assert "Output size is too small" in shapes.series["errors"]["below the smallest"]
    judgement = experiment.judge(shapes)
    assert judgement.verdict is Verdict.HOLDS and "not run" in judgement.reason


def test_without_a_pooling_nothing_lets_256_in():
    def build():
        network = _vgg()
        network.avgpool = nn.Identity()
        return network

    assert experiment.judge(experiment.measure(QUICK, build)).verdict is Verdict.FAILS


def test_where_another_size_fails_it_holds_in_part():
    def build():
        network = _vgg()
        network.prepare_input = lambda x: x if x.shape[-1] != 320 else x[..., :8]
        return network

    assert experiment.judge(experiment.measure(QUICK, build)).verdict is Verdict.IN_PART


def test_where_the_head_takes_any_map_the_pooling_is_not_what_lets_it_in():
    def build():
        network = _vgg()
        network.classifier = nn.Linear(1, 1)
        network.pool = lambda features: network.avgpool(features).mean((1, 2, 3))[:, None]
        return network

    assert experiment.judge(experiment.measure(QUICK, build)).verdict is Verdict.FAILS


def test_accuracy_is_told_and_does_not_decide(shapes):
    """Stored is a network that resizes its input, so that no size is far from the one trained at."""
    stored = Measured.from_dict(json.loads(STORED.read_text()))
    judgement = experiment.judge(Measured({**shapes.figures, **stored.figures}, shapes.series))
    assert judgement.verdict is Verdict.HOLDS and "not always best" in judgement.reason


class Resizing(SmallVGG):
    def forward(self, x):
        return super().forward(F.interpolate(x, (16, 16), mode="bilinear"))


@pytest.mark.slow
def test_a_network_that_resizes_its_input_is_as_good_elsewhere():
    cfg = experiment.ARM.args[0]
    arm = partial(Resizing, cfg, **experiment.ARM.keywords)
    broken = experiment.measure(Setup(), arm=arm)
    assert "not always best" in experiment.judge(broken).reason
    assert broken.value("accuracy at 32") > 90
    measured = experiment.measure(Setup())
    assert measured.value("sizes that run") == 27  # VGG-11 itself
    assert "best at the training size" in experiment.judge(measured).reason
    assert measured.value("accuracy at 32") < 90
