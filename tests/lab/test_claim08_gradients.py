"""Gradients of plain and residual networks before training."""

from dataclasses import replace
from functools import partial

import pytest
from torch import nn

from vertebra.lab import initial_gradients
from vertebra.lab.experiment import Setup, Verdict
from vertebra.lab.experiments import claim08_gradients as experiment
from vertebra.lab.small_networks import SmallResNet, seeded
from vertebra.lab.user_networks import small_images

QUICK = replace(Setup(), quick=True, seeds=1)
DEPTHS = (8, 32)
narrow = partial(SmallResNet, width=4)
PLAIN, RESIDUAL, NO_NORM = {"residual": False}, {"residual": True}, {"batch_norm": False}


@pytest.fixture(autouse=True)
def _shallow(monkeypatch):
    monkeypatch.setattr(experiment, "DEPTHS", DEPTHS)
    monkeypatch.setattr(experiment, "DEEPEST", "32")
    monkeypatch.setattr(initial_gradients, "BATCH", 4)


def judged(plain, residual):
    arms = {"plain": partial(narrow, **plain), "residual": partial(narrow, **residual)}
    arms |= {f"{name}, no norm": partial(build, batch_norm=False) for name, build in arms.items()}
    return experiment.judge(experiment.measure(QUICK, arms))


def test_with_batch_norm_gradients_do_not_vanish_and_are_more_alike():
    judgement = judged(PLAIN, RESIDUAL)
    assert judgement.verdict is Verdict.IN_PART and "Without batch norm" in judgement.reason


def test_without_the_skips_nothing_is_answered():
    assert judged(PLAIN, PLAIN).verdict is Verdict.FAILS


def test_without_the_norm_gradients_vanish_and_the_addition_answers_that():
    assert judged(PLAIN | NO_NORM, RESIDUAL | NO_NORM).verdict is Verdict.HOLDS


def test_networks_of_ones_own_against_themselves_without_skips(monkeypatch):
    monkeypatch.setattr(initial_gradients, "small_images", partial(small_images, side=16))
    networks = {
        "with norm": seeded(partial(narrow, 14), 0),
        "no norm": seeded(partial(narrow, 32, batch_norm=False), 0),
        "plain": seeded(partial(narrow, 14, residual=False), 0),
    }
    measured = experiment.measure_networks(Setup(), networks)
    assert "plain: without skips, cosine" not in measured.figures
    assert experiment.judge_networks(measured).verdict is Verdict.IN_PART  # of the two that add
    for name, verdict in (("with norm", Verdict.IN_PART), ("no norm", Verdict.HOLDS), ("plain", Verdict.OPEN)):
        own = experiment.measure_networks(Setup(), {name: networks[name]})
        assert experiment.judge_networks(own).verdict is verdict, name


def test_a_network_for_images_of_one_size_gets_them():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(2 * 28 * 28, 2))
    measured = experiment.measure_networks(Setup(), {"own": network})
    assert measured.value("own: side of the images") == 32
    assert experiment.judge_networks(measured).verdict is Verdict.OPEN


def test_one_draw_that_differs_changes_the_verdict(monkeypatch):
    monkeypatch.setattr(initial_gradients, "small_images", partial(small_images, side=16))
    measured = experiment.measure_networks(Setup(), {"own": seeded(partial(narrow, 14), 0)})
    draws = measured.series["networks"]["own"]["draws"]
    assert len(draws["cosine"]) == 3 and experiment.judge_networks(measured).verdict is Verdict.IN_PART
    draws["without skips, cosine"][1] = 1.0
    assert experiment.judge_networks(measured).verdict is Verdict.FAILS


def test_where_gradients_are_0_nothing_is_decided(monkeypatch):
    """Without the skips a branch whose last norm is 0 passes nothing."""
    monkeypatch.setattr(initial_gradients, "small_images", partial(small_images, side=16))
    network = seeded(partial(narrow, 14, zero_init_residual=True), 0)
    measured = experiment.measure_networks(Setup(), {"own": network})
    assert experiment.judge_networks(measured).verdict is Verdict.OPEN
