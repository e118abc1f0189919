"""Where VGG-16 keeps its parameters."""

from torch import nn

from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim01_vgg_parameters as experiment
from vertebra.models import vgg16
from vertebra.models.state_dict import meta_build


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(measured.value(name) - expected.value) <= expected.tolerance * expected.value, name
    assert experiment.judge(measured).verdict is Verdict.IN_PART


def test_without_the_wide_layers_the_claim_does_not_hold():
    with meta_build():
        network = vgg16()
    network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 1000, device="meta")
    assert experiment.judge(experiment.measure(Setup(), network)).verdict is Verdict.FAILS


def test_where_they_had_the_activations_too_it_would_hold():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 50, device="meta"))
    assert experiment.judge(experiment.measure(Setup(), network)).verdict is Verdict.HOLDS
