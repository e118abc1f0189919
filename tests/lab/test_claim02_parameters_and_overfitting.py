"""Overfitting against the number of parameters."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim02_parameters_and_overfitting as experiment
from vertebra.lab.fit import Curve
from vertebra.lab.overfitting import gap_figures
from vertebra.lab.vgg_heads import few_digits, vgg_with_head

STORED = Path(__file__).parent / "measurements" / "claim02_seen_images.json"
CHEAP = {arm: experiment.ARMS[arm] for arm in ("pooling", "128 wide")}


def seen_digits(seed):
    """Validation images that are among the training images: there is nothing to overfit to."""
    images = few_digits(seed)
    return replace(images, val=images.train, val_labels=images.train_labels)


def _curve(train, val, seed=0):
    return Curve(seed, (0.1,), (train,), (0.1,), (val,), train, 1.0)


def _measured(data, *gaps):
    """Of heads whose training accuracy is 1, with these gaps a seed."""
    arms = {str(i): partial(vgg_with_head, i or None) for i in range(len(gaps))}
    curves = {arm: [_curve(1.0, 1 - gap) for gap in own] for arm, own in zip(arms, gaps, strict=True)}
    return gap_figures(data, arms, curves)[0]


def _verdict(*figures):
    return experiment.judge(Measured({name: figure for own in figures for name, figure in own.items()})).verdict


def test_a_quick_run_counts_and_decides_nothing():
    measured = experiment.measure(replace(Setup(), quick=True))
    for name, expected in experiment.CLAIM.expected.items():
        assert measured.value(name) == expected.value
    assert experiment.judge(measured).verdict is Verdict.OPEN


def test_where_the_training_images_are_the_validation_images_nothing_overfits():
    """Stored is such a run."""
    measured = Measured.from_dict(json.loads(STORED.read_text()))
    assert experiment.judge(measured).verdict is Verdict.FAILS


def test_the_gap_decides_and_how_it_grows():
    growing = _measured("digits", [0.06, 0.07, 0.06], [0.2, 0.21, 0.2])
    level = _measured("digits", [0.1, 0.11, 0.1], [0.1, 0.1, 0.11])
    shrinking = _measured("photos", [0.4, 0.41, 0.4], [0.3, 0.31, 0.3]) | {"gap, photos, pretrained": Figure(9.0)}
    assert _verdict(growing) is Verdict.HOLDS
    assert _verdict(level) is Verdict.IN_PART
    assert _verdict(growing, shrinking) is Verdict.IN_PART
    assert _verdict(_measured("digits", [0.0, 0.01, 0.0], [0.03, 0.04, 0.03])) is Verdict.FAILS
    assert "only digits" in experiment.judge(Measured(level)).reason


def test_what_the_seeds_do_not_tell_apart_is_not_decided():
    assert _verdict(_measured("digits", [0.1, 0.2, 0.15], [0.15, 0.1, 0.2])) is Verdict.OPEN  # overfits by 15 ± 12
    assert _verdict(_measured("digits", [0.3, 0.1, 0.2], [0.2, 0.21, 0.2])) is Verdict.OPEN  # grows by 0 ± 25


def test_networks_that_have_not_fitted_decide_nothing():
    assert _verdict(_measured("digits", [0.1], [0.3]) | {"training, digits, 1": Figure(94.0)}) is Verdict.OPEN


def test_with_one_seed_there_is_no_interval_and_nothing_is_decided():
    assert _verdict(_measured("digits", [0.1], [0.3])) is Verdict.OPEN


@pytest.mark.slow
def test_seen_images_change_the_verdict():
    assert experiment.judge(experiment.measure(Setup(), CHEAP)).verdict is not Verdict.FAILS
    assert experiment.judge(experiment.measure(Setup(), CHEAP, seen_digits)).verdict is Verdict.FAILS
