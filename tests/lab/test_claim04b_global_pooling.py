"""How much of GoogLeNet's smallness is the head's."""

import pytest
from torch import nn

from vertebra.errors import UsageError
from vertebra.introspect import DenseInception, googlenet_with, pool_globally
from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim04b_global_pooling as experiment
from vertebra.models import googlenet, vgg16
from vertebra.models.state_dict import meta_build


@pytest.fixture(scope="module")
def measured():
    return experiment.measure(Setup())


def test_the_counts_are_the_published_ones(measured):
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value, name
    assert experiment.judge(measured).verdict is Verdict.HOLDS


def test_with_modules_of_one_convolution_the_count_is_another():
    def dense(aux_logits=True):
        return googlenet_with(DenseInception, aux_logits=aux_logits)

    judgement = experiment.judge(experiment.measure(Setup(), parallel=dense))
    assert judgement.verdict is Verdict.IN_PART and "the counts are others" in judgement.reason


def test_where_the_plain_network_had_a_pooled_head_already_the_claim_does_not_hold():
    measured = experiment.measure(Setup(), plain=lambda: pool_globally(vgg16()))
    assert measured.value("the head's share of the difference") == 0
    assert experiment.judge(measured).verdict is Verdict.FAILS


def test_the_rule_asks_for_the_difference_and_for_its_logarithm(measured):
    figures = dict(measured.figures)
    figures[experiment.SHARES[1]] = Figure(49, "%")
    judgement = experiment.judge(Measured(figures))
    assert judgement.verdict is Verdict.IN_PART and "the smaller part" in judgement.reason


def test_a_network_of_ones_own_is_compared_with_itself_under_a_pooled_head():
    with meta_build():
        networks = {"vgg": vgg16(), "googlenet": googlenet(aux_logits=False)}
    measured = experiment.measure_networks(Setup(), networks)
    assert measured.value("vgg: parameters with a pooled head") == 15_227_688
    assert measured.value("googlenet: saved by a pooled head") == 0
    assert experiment.judge_networks(measured).verdict is Verdict.IN_PART
    for name, verdict in (("vgg", Verdict.HOLDS), ("googlenet", Verdict.FAILS)):
        only = experiment.measure_networks(Setup(), {name: networks[name]})
        assert experiment.judge_networks(only).verdict is verdict


def test_layers_on_tokens_or_positions_are_no_head():
    """Of transformers, and of ConvNeXt's blocks behind its last convolution."""
    tokens = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(2), nn.Linear(784, 99), nn.Flatten(), nn.Linear(792, 2))
    measured = experiment.measure_networks(Setup(), {"mine": tokens})
    assert measured.value("mine: parameters in the head") == 793 * 2
    assert measured.value("mine: saved by a pooled head") == 0


def test_a_network_for_small_images_is_counted_at_their_size():
    small = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Flatten(), nn.Linear(8 * 16 * 16, 9), nn.Linear(9, 2))
    measured = experiment.measure_networks(Setup(), {"mine": small})
    assert measured.value("mine: parameters in the head") == 2049 * 9 + 10 * 2
    assert measured.value("mine: parameters with a pooled head") == 28 * 8 + 9 * 2


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 2, device="meta")), "mine has no convolution"),
        (nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "mine has no fully connected"),
    ],
)
def test_a_network_without_maps_or_head_is_refused(network, message):
    with pytest.raises(UsageError, match=message):
        experiment.measure_networks(Setup(), {"mine": network})


class WithAuxiliaryHead(nn.Module):
    def __init__(self, auxiliary):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8 * 28 * 28, 9), nn.Linear(9, 2))
        self.auxiliary = nn.Linear(auxiliary, 1, bias=False)

    def forward(self, x):
        return self.trunk(x)


def test_what_does_not_run_is_no_part_of_what_a_pooled_head_would_save():
    small, large = WithAuxiliaryHead(1), WithAuxiliaryHead(100_000)
    measured = experiment.measure_networks(Setup(), {"small": small, "large": large})
    assert measured.value("large: saved by a pooled head") == measured.value("small: saved by a pooled head") > 99
    assert measured.value("large: parameters that do not run") == 100_000
