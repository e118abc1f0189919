"""Linear bottlenecks: their structure, what a ReLU loses in few channels, and what it costs in training."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from vertebra.lab.experiment import Measured, Setup, Verdict
from vertebra.lab.experiments import claim18_linear_bottleneck as experiment
from vertebra.lab.relu_information import lost_share, relu
from vertebra.models import mobilenet_v2
from vertebra.models.mobilenetv2 import InvertedResidual

STORED = Path(__file__).parent / "measurements"
# What happens where the linear arm gets the activation too: both are then the same network.
NO_LINEAR_ARM = {name.replace("relu6", "linear"): arm for name, arm in experiment.ARMS.items() if "relu6" in name}
BROKEN = {**experiment.ARMS, **NO_LINEAR_ARM}


class ActivatedEnd(InvertedResidual):
    """With a ReLU6 behind the projection."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.conv.append(nn.ReLU6())


def narrow(inp, oup, stride, expand_ratio, **options):
    return InvertedResidual(inp, oup, stride, 1, **options)


@pytest.fixture(autouse=True)
def few_maps(monkeypatch):
    monkeypatch.setattr(experiment, "MAPS", 20)


def quick(**changes):
    return experiment.measure(Setup(quick=True, seeds=1), **changes)


def test_the_counts_are_the_published_ones_and_a_quick_run_says_what_it_left_out():
    measured = quick()
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value, name
    judgement = experiment.judge(measured)
    assert judgement.verdict is Verdict.HOLDS and "was not run" in judgement.reason


@pytest.mark.parametrize("block", [ActivatedEnd, narrow])
def test_other_blocks_break_the_claim(block):
    assert experiment.judge(quick(build=lambda: mobilenet_v2(block=block))).verdict is Verdict.FAILS


def test_an_activation_that_loses_nothing_leaves_half_of_it():
    judgement = experiment.judge(quick(activation=lambda x: x))
    assert judgement.verdict is Verdict.IN_PART and "loses no more" in judgement.reason


def test_a_relu_loses_what_the_best_linear_decoder_cannot_recover():
    assert lost_share(2, 0, lambda x: x) == pytest.approx(0, abs=1e-12)
    assert lost_share(2, 0, np.zeros_like) == pytest.approx(1)
    assert 0 < lost_share(40, 0) < lost_share(2, 0, relu) < 1


@pytest.mark.parametrize(
    ("name", "verdict"), [("claim18_linear", Verdict.HOLDS), ("claim18_no_linear_arm", Verdict.IN_PART)]
)
def test_stored_trainings_decide(name, verdict):
    """The second is what `test_training_decides` measures on networks without a linear arm."""
    stored = Measured.from_dict(json.loads((STORED / f"{name}.json").read_text(encoding="utf-8")))
    assert experiment.judge(stored).verdict is verdict


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "verdict"), [(experiment.ARMS, Verdict.HOLDS), (BROKEN, Verdict.IN_PART)])
def test_training_decides(arms, verdict):
    assert experiment.judge(experiment.measure(Setup(seeds=3), arms=arms)).verdict is verdict
