"""Whether DenseNet's gradients grow with the growth rate."""

import json
from pathlib import Path

import pytest
import torch

from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim13_growth_rate as experiment
from vertebra.lab.small_networks import small_densenet
from vertebra.models import DenseNet

QUICK = Setup(seeds=1, quick=True)
STORED = Path(__file__).parent / "measurements" / "claim13_scaled_gradient.json"


class Scale(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.factor * gradient, None


def scaled(network, growth_rate):
    """A growth rate whose square scales the gradient on its way from the first block to the stem."""
    factor = (growth_rate / 8) ** 2
    network.features.denseblock1.register_forward_pre_hook(lambda _, args: Scale.apply(args[0], factor))
    return network


def scaled_densenet(growth_rate, *arguments, **options):
    return scaled(DenseNet(growth_rate, *arguments, **options), growth_rate)


def scaled_small_densenet(blocks, growth_rate, num_classes=10):
    return scaled(small_densenet(blocks, growth_rate, num_classes=num_classes), growth_rate)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(experiment, "BLOCKS", (2, 2))
    monkeypatch.setattr(experiment, "RATES", (4, 8, 16, 32))


def test_untrained_norms_do_not_rise_unless_the_growth_rate_scales_them(few):
    measured = experiment.measure(QUICK)
    assert set(measured.series["norms"]["last"]) == {"4", "8", "16", "32"}
    assert experiment.judge(measured).verdict is Verdict.FAILS
    judgement = experiment.judge(experiment.measure(QUICK, scaled_densenet))
    assert judgement.verdict is Verdict.HOLDS and judgement.reason.endswith("No network was trained.")


def test_a_network_whose_gradient_the_growth_rate_scales_holds_also_when_trained():
    measured = Measured.from_dict(json.loads(STORED.read_text(encoding="utf-8")))
    judgement = experiment.judge(measured)
    assert judgement.verdict is Verdict.HOLDS and judgement.decided_by == experiment.DECISIVE
    assert "trained." not in judgement.reason


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([(0.1, 0.3)] * 4, Verdict.HOLDS),
        ([(0.1, 0.3), (-0.1, 0.1), (-0.1, 0.1), (-0.1, 0.1)], Verdict.IN_PART),
        ([(-0.1, 0.1)] * 4, Verdict.FAILS),
        ([(-0.1, 0.1), (-0.9, -0.1), (-0.1, 0.1), (-0.3, 0.9)], Verdict.OPEN),
        ([(-0.1, 0.1), (-0.1, 0.1)], Verdict.FAILS),
    ],
)
def test_the_intervals_decide(intervals, verdict):
    names = zip(experiment.DECISIVE, intervals, strict=False)
    figures = {name: Figure(sum(ends) / 2, n=9, interval=ends) for name, ends in names}
    assert experiment.judge(Measured(figures)).verdict is verdict


@pytest.mark.slow
def test_trained_for_real():
    measured = experiment.measure(Setup(), scaled_densenet, scaled_small_densenet)
    assert experiment.judge(measured).verdict is Verdict.HOLDS
