"""Global average pooling in place of fully connected layers."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim07_global_pooling_accuracy as experiment
from vertebra.lab.vgg_heads import vgg_with_head

STORED = Path(__file__).parent / "measurements" / "claim07_swapped_heads.json"
SWAPPED = {experiment.POOLING: partial(vgg_with_head, 1024), experiment.DENSE: partial(vgg_with_head, None)}


def _stored(**changed):
    measured = Measured.from_dict(json.loads(STORED.read_text()))
    return Measured({**measured.figures, **changed}, measured.series)


def _figures(low, high, *, shifted):
    what = ", shifted" if shifted else ""
    return {
        f"difference, {count} a class{what}": Figure(0, n=3, interval=(low, high)) for count in experiment.PROTOCOLS
    }


def test_a_quick_run_counts_and_decides_no_more():
    measured = experiment.measure(replace(Setup(), quick=True))
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value
    judgement = experiment.judge(measured)
    assert judgement.verdict is Verdict.OPEN and "not run" in judgement.reason


def test_with_the_heads_swapped_shifts_decide_against_it():
    """Stored is a run in which the arm called pooling had the fully connected layers."""
    judgement = experiment.judge(_stored())
    assert judgement.verdict is not Verdict.HOLDS and "not shown to decide" in judgement.reason


def test_each_verdict_can_come_out():
    def verdict(*figures):
        return experiment.judge(_stored(**{name: figure for own in figures for name, figure in own.items()})).verdict

    above, level = _figures(60, 70, shifted=True), _figures(-1, 70, shifted=True)
    as_good, worse = _figures(-1.9, 1, shifted=False), _figures(-4, -2.1, shifted=False)
    uncertain = _figures(-4, 1, shifted=False)
    assert verdict(above, as_good) is Verdict.HOLDS
    assert {verdict(above, worse), verdict(above, uncertain), verdict(level, as_good)} == {Verdict.IN_PART}
    assert verdict(level, worse) is Verdict.FAILS
    assert verdict(level, uncertain) is Verdict.OPEN
    heavier = {"parameters of VGG-16, pooled globally": Figure(138_357_544)}
    assert verdict(above, as_good, heavier) is Verdict.FAILS


@pytest.mark.slow
def test_swapping_the_heads_changes_the_verdict():
    measured, swapped = (experiment.judge(experiment.measure(Setup(), arms)) for arms in (experiment.ARMS, SWAPPED))
    assert measured.verdict in (Verdict.HOLDS, Verdict.IN_PART) and "is less hurt" in measured.reason
    assert swapped.verdict is not Verdict.HOLDS and "not shown to decide" in swapped.reason
