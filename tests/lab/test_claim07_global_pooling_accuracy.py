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


def _figures(value, *, shifted, n=3):
    what = ", shifted" if shifted else ""
    name = "seeds with pooling above" if shifted else "difference"
    return {f"{name}, {count} a class{what}": Figure(value, n=n) for count in experiment.PROTOCOLS}


def test_a_quick_run_counts_and_decides_no_more():
    measured = experiment.measure(replace(Setup(), quick=True))
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value
    judgement = experiment.judge(measured)
    assert judgement.verdict is Verdict.OPEN and "not run" in judgement.reason


def test_with_the_heads_swapped_shifts_decide_against_it():
    """Stored is a run in which the arm called pooling had the fully connected layers."""
    judgement = experiment.judge(_stored())
    assert judgement.verdict is Verdict.IN_PART and "shifts do not decide" in judgement.reason


def test_each_verdict_can_come_out():
    above, as_good = _figures(3, shifted=True), _figures(-1.9, shifted=False)
    assert experiment.judge(_stored(**above, **as_good)).verdict is Verdict.HOLDS
    worse = _figures(-2.1, shifted=False)
    assert experiment.judge(_stored(**above, **worse)).verdict is Verdict.IN_PART
    assert experiment.judge(_stored(**_figures(2, shifted=True), **worse)).verdict is Verdict.FAILS
    heavier = {"parameters of VGG-16, pooled globally": Figure(138_357_544)}
    assert experiment.judge(_stored(**above, **as_good, **heavier)).verdict is Verdict.FAILS


@pytest.mark.slow
def test_swapping_the_heads_changes_the_verdict():
    assert experiment.judge(experiment.measure(Setup())).verdict is Verdict.HOLDS
    assert experiment.judge(experiment.measure(Setup(), SWAPPED)).verdict is not Verdict.HOLDS
