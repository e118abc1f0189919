"""GoogLeNet's auxiliary heads."""

from functools import partial

import pytest
import torch
from torch import nn

from vertebra.errors import UsageError
from vertebra.lab.auxiliary_heads import gradient_gain
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim41_auxiliary_heads as experiment
from vertebra.models import GoogLeNet, resnet18

QUICK = Setup(quick=True)


class _Heads(nn.Module):
    """A trunk of two layers with heads on the first: detached from it, or used in evaluation too."""

    def __init__(self, heads=1, detached=False, always=False):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.aux = nn.ModuleList(nn.Conv2d(4, 2, 1) for _ in range(heads))
        self.detached, self.always = detached, always

    def forward(self, x):
        x = self.first(x)
        logits = self.second(x).mean((2, 3))
        if not (self.training or self.always):
            return logits
        others = [head(x.detach() if self.detached else x).mean((2, 3)) for head in self.aux]
        return (logits, *others) if self.training else torch.cat([logits, *others], 1)


@pytest.fixture(scope="module")
def counts():
    return experiment.measure(QUICK)


def test_the_counts_are_the_published_ones_and_gradients_are_not_measured(counts):
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(counts.value(name) - expected.value) <= expected.tolerance * expected.value, name
    judgement = experiment.judge(counts)
    assert judgement.verdict is Verdict.HOLDS and "not measured" in judgement.reason


@pytest.mark.parametrize(
    ("build", "verdict"),
    [
        (partial(_Heads, 2), Verdict.HOLDS),
        (partial(_Heads, 2, always=True), Verdict.IN_PART),
        (partial(_Heads, 1), Verdict.FAILS),
        (partial(GoogLeNet, aux_logits=False), Verdict.FAILS),
    ],
)
def test_heads_that_evaluation_uses_or_that_are_missing_change_the_verdict(build, verdict):
    assert experiment.judge(experiment.measure(QUICK, build)).verdict is verdict


@pytest.mark.parametrize(
    ("with_norm", "without", "reason"),
    [(1.2, 9, "and bring gradient"), (1.0, 9, "only without batch norm"), (1.0, 1.0, "hardly any")],
)
def test_the_reason_tells_where_the_heads_bring_gradient(with_norm, without, reason, counts):
    gains = [Figure(low + 0.1, "×", 5, (low, low + 0.2)) for low in (with_norm, without)]
    measured = Measured({**counts.figures, **dict(zip(experiment.RATIOS, gains, strict=True))})
    assert reason in experiment.judge(measured).reason


def test_gradients_are_compared_at_the_same_weights():
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    of_first, by_layer = gradient_gain(_Heads(), images, "first")
    assert of_first == by_layer[0] != 1 and by_layer[1] == 1
    assert gradient_gain(_Heads(detached=True), images, "first") == (1, [1, 1])


def test_networks_of_ones_own():
    networks = {"mine": _Heads().train()}
    measured = experiment.measure_networks(Setup(), networks)
    assert measured.value("mine: parameters not used in evaluation") == 10
    assert experiment.judge_networks(measured).verdict is Verdict.HOLDS
    used = Measured({**measured.figures, "mine: parameters not used in evaluation": Figure(0)}, measured.series)
    assert experiment.judge_networks(used).verdict is Verdict.FAILS
    with pytest.raises(UsageError, match="other returns no more logits in training"):
        experiment.measure_networks(Setup(), {"other": resnet18()})


@pytest.mark.slow
def test_batch_norm_decides_whether_the_heads_bring_gradient():
    assert "only without batch norm" in experiment.judge(experiment.measure(Setup(seeds=3))).reason
