"""VGG-16's layers, and stacks of 3×3 convolutions against large kernels."""

import pytest
from torch import nn

from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim26_stacked_3x3 as experiment
from vertebra.lab.runs import run
from vertebra.models import vgg11, vgg16
from vertebra.models.state_dict import meta_build


def test_the_structure_and_the_ratios_are_the_papers():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == pytest.approx(expected.value), name
    assert experiment.judge(measured).verdict is Verdict.HOLDS


def _dilated(count):
    return nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=2, dilation=2) for _ in range(count)))


def _heavy(count):
    """More weights than one large kernel, with the same field."""
    return nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(count)), nn.Conv2d(64, 2048, 1))


def _without_a_pooling():
    with meta_build():
        network = vgg16()
    network.features[-1] = nn.Identity()
    return network


@pytest.mark.parametrize("stack", [_dilated, _heavy])
def test_where_the_field_or_the_weights_differ_stacking_is_no_match(stack):
    judgement = experiment.judge(experiment.measure(Setup(), stack=stack))
    assert judgement.verdict is Verdict.IN_PART and "no match" in judgement.reason


def test_with_other_layers_the_structure_is_not_as_said():
    judgement = experiment.judge(experiment.measure(Setup(), _without_a_pooling()))
    assert judgement.verdict is Verdict.IN_PART and "not as said" in judgement.reason
    assert experiment.judge(experiment.measure(Setup(), "vgg11", _dilated)).verdict is Verdict.FAILS


class Pointwise(nn.Sequential):
    def __init__(self):
        super().__init__(
            *(nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )


def test_of_the_users_networks_the_stacks_are_counted():
    networks = []
    for build in (vgg11, vgg16):
        with meta_build():  # without the time that random values take, and without the room of the classifier
            network = build()
            network.classifier = nn.Linear(512 * 7 * 7, 10)
        networks.append(network.to_empty(device="cpu"))
    verdicts = [run(26, models=[network]).verdict for network in networks]
    assert verdicts == [Verdict.IN_PART, Verdict.HOLDS]  # the first two convolutions of VGG-11 stand alone
    result = run(26, models=[Pointwise()])
    assert result.verdict is Verdict.FAILS and result.figures["Pointwise: convolutions"].value == 3
