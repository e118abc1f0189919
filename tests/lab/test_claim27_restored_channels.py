"""Whether GoogLeNet restores the channels that it narrowed."""

import pytest

from vertebra.errors import UsageError
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim27_restored_channels as experiment
from vertebra.models import ResNet, mobilenet_v2
from vertebra.models.googlenet import BasicConv2d, Inception
from vertebra.models.resnet import Bottleneck
from vertebra.models.state_dict import meta_build


class _Restoring(Inception):
    """A 1×1 behind each 3×3 that goes back to the channels of the input."""

    def __init__(self, *columns: int) -> None:
        super().__init__(*columns)
        self.branch2.append(BasicConv2d(columns[3], columns[0], kernel_size=1))
        self.branch3.append(BasicConv2d(columns[5], columns[0], kernel_size=1))
        self.out_channels = columns[1] + 2 * columns[0] + columns[6]
        self.back = BasicConv2d(self.out_channels, sum(columns[i] for i in (1, 3, 5, 6)), kernel_size=1)

    def forward(self, x):
        return self.back(super().forward(x))


class _SomeRestore(Inception):
    """The same in one of the two branches of the first modules."""

    def __init__(self, *columns: int) -> None:
        super().__init__(*columns)
        if columns[0] < 300:
            self.branch2[1] = BasicConv2d(columns[2], columns[0], kernel_size=3, padding=1)
            self.back = BasicConv2d(self.out_channels - columns[3] + columns[0], self.out_channels, kernel_size=1)

    def forward(self, x):
        out = super().forward(x)
        return self.back(out) if hasattr(self, "back") else out


class _Even(Inception):
    """Concatenates to as many channels as it read, and changes them behind that alone."""

    def __init__(self, *columns: int) -> None:
        channels, quarter = columns[0], columns[0] // 4
        super().__init__(channels, quarter, columns[2], quarter, columns[4], quarter, channels - 3 * quarter)
        self.change = BasicConv2d(channels, sum(columns[i] for i in (1, 3, 5, 6)), kernel_size=1)

    def forward(self, x):
        return self.change(super().forward(x))


def test_the_structure_is_the_published_one():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value, name
    assert measured.value("ResNet-50: restored behind it") == measured.value("ResNet-50: narrowed by a 1×1 in front")
    assert experiment.judge(measured).verdict is Verdict.FAILS


@pytest.mark.parametrize(
    ("inception", "verdict", "reason"),
    [
        (_Restoring, Verdict.HOLDS, "Most that narrow"),
        (_SomeRestore, Verdict.IN_PART, "Some that narrow"),
        (_Even, Verdict.IN_PART, "most modules write"),
    ],
)
def test_modules_that_restore_change_the_verdict(inception, verdict, reason):
    judgement = experiment.judge(experiment.measure(Setup(), inception))
    assert judgement.verdict is verdict and reason in judgement.reason


def _small():
    return ResNet(Bottleneck, (2, 1, 1, 1), num_classes=2)


def test_networks_of_ones_own():
    with meta_build():
        measured = experiment.measure_networks(Setup(), {"mine": _small()})
        assert experiment.judge_networks(measured).verdict is Verdict.HOLDS
        with pytest.raises(UsageError, match="mine has no 1×1 convolution that narrows"):
            experiment.measure_networks(Setup(), {"mine": mobilenet_v2()})
