"""Blocks that begin as the identity."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from vertebra.lab.experiment import Measured, Setup, Verdict
from vertebra.lab.experiments import claim40_zero_init as experiment
from vertebra.lab.fit import Curve
from vertebra.lab.small_networks import SmallResNet
from vertebra.models import ResNet
from vertebra.models.resnet import BasicBlock, Bottleneck

QUICK = replace(Setup(), quick=True)
STORED = Path(__file__).parent / "measurements" / "claim40_gamma_left_at_1.json"


class _Narrow(ResNet):
    widths = (4, 4, 4, 4)


BUILDERS = {
    "basic": partial(_Narrow, BasicBlock, (1, 2, 1, 1), num_classes=4),
    "bottleneck": partial(_Narrow, Bottleneck, (1, 2, 1, 1), num_classes=4),
    "small": partial(SmallResNet, 14, 4),
}


def judged(builders):
    return experiment.judge(experiment.measure(QUICK, builders))


def test_every_block_begins_as_the_identity_with_convolutional_shortcuts_too():
    measured = experiment.measure(QUICK, BUILDERS)
    for name in BUILDERS:
        assert measured.value(f"{name}, γ = 0: values that differ") == 0
        assert measured.value(f"{name}, γ = 1: values that differ") > 90
    judgement = experiment.judge(measured)
    assert judgement.verdict is Verdict.IN_PART and "training was not run" in judgement.reason


def test_with_gamma_left_at_1_it_does_not_hold():
    def left(zero_init_residual):
        return BUILDERS["basic"]()

    assert judged({**BUILDERS, "left": left}).verdict is Verdict.FAILS


def test_one_block_that_adds_something_is_enough():
    def build(zero_init_residual):
        network = BUILDERS["bottleneck"](zero_init_residual=zero_init_residual)
        network.layer2[1].bn3.weight.data[0] = 1e-3
        return network

    assert judged({"one": build}).verdict is Verdict.FAILS


def test_where_branches_add_nothing_either_way_zero_is_not_what_does_it():
    judgement = judged({"small": lambda zero_init_residual: SmallResNet(14, 4, zero_init_residual=True)})
    assert judgement.verdict is Verdict.FAILS and "γ = 1 too" in judgement.reason


def test_epochs_to_a_loss():
    def epochs(*losses):
        return Curve(0, losses, (), (), (), 1.0, 0.0).epochs_to(0.1)

    assert epochs(2.0, 1.0, 0.01) == pytest.approx(2.5)
    assert epochs(0.05, 0.01) == 1
    assert epochs(1.0, 0.1) == pytest.approx(2)
    assert epochs(1.0, 0.5) == epochs(float("nan"), float("nan")) == 2


def test_training_is_told_and_does_not_decide():
    """Stored: both arms have γ = 1, so no difference at all."""
    figures = dict(experiment.measure(QUICK, {"small": BUILDERS["small"]}).figures)
    stored = Measured.from_dict(json.loads(STORED.read_text()))
    series = {"networks": ["small"]}

    def reason(**changed):
        difference = replace(stored.figures["difference in epochs"], **changed)
        judgement = experiment.judge(
            Measured({**figures, **stored.figures, "difference in epochs": difference}, series)
        )
        assert judgement.verdict is Verdict.IN_PART
        return judgement.reason

    assert "neither sooner nor later" in reason()
    assert "falls sooner" in reason(value=-1, interval=(-1.5, -0.5))
    assert "falls later" in reason(value=1, interval=(0.5, 1.5))
    assert "neither sooner" in reason(interval=None)


@pytest.mark.slow
def test_with_gamma_left_at_1_training_is_the_same():
    arms = dict.fromkeys(("γ = 0", "γ = 1"), experiment.ARMS["γ = 1"])
    measured = experiment.measure(Setup(seeds=1), {"small": BUILDERS["small"]}, _twice(arms))
    assert measured.value("difference in epochs") == 0
    assert "neither sooner nor later" in experiment.judge(measured).reason


def _twice(arms):
    return {name: partial(arm) for name, arm in arms.items()}
