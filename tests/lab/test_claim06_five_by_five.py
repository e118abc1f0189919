"""Whether GoogLeNet's "5×5" is a 3×3."""

from vertebra.introspect import InceptionWith5x5
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim06_five_by_five as experiment
from vertebra.models.googlenet import BasicConv2d, Inception


class _Twice(Inception):
    """Two 3×3 in a row read as much as a 5×5."""

    def __init__(self, *columns: int) -> None:
        super().__init__(*columns)
        self.branch3.append(BasicConv2d(columns[5], columns[5], kernel_size=3, padding=1))


class _LateOnly(Inception):
    """A true 5×5 in the first modules alone."""

    def __init__(self, *columns: int) -> None:
        super().__init__(*columns)
        if columns[0] < 500:
            self.branch3 = InceptionWith5x5(*columns).branch3


def test_the_counts_are_the_published_ones():
    measured = experiment.measure(Setup())
    for name, expected in experiment.CLAIM.expected.items():
        assert abs(measured.value(name) - expected.value) <= expected.tolerance * expected.value, name
    assert measured.value("branches that read 3×3 positions") == measured.value("modules") == 9
    assert experiment.judge(measured).verdict is Verdict.HOLDS


def test_with_the_papers_kernel_it_does_not_hold():
    assert experiment.judge(experiment.measure(Setup(), InceptionWith5x5)).verdict is Verdict.FAILS


def test_two_3x3_in_a_row_read_more_than_one():
    judgement = experiment.judge(experiment.measure(Setup(), _Twice))
    assert judgement.verdict is Verdict.IN_PART and "together they read more" in judgement.reason


def test_some_modules_are_not_all():
    judgement = experiment.judge(experiment.measure(Setup(), _LateOnly))
    assert judgement.verdict is Verdict.IN_PART and "not in all" in judgement.reason
