"""Depth and training loss of plain and residual networks."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from vertebra.lab.experiment import Figure, Measured, Setup, Verdict
from vertebra.lab.experiments import claim09_degradation as experiment
from vertebra.lab.fit import Protocol
from vertebra.lab.fit_all import fit_all
from vertebra.lab.small_data import digits
from vertebra.lab.small_networks import SmallResNet

# As measured, and with skips in the plain networks, and without them in the residual ones.
STORED = json.loads((Path(__file__).parent / "measurements" / "claim09_degradation.json").read_text())
ONE_SEED = Setup(seeds=1, quick=True)


def few(images):
    return replace(images.few(2), val=images.val[:20], val_labels=images.val_labels[:20])


def stored(name):
    return Measured.from_dict(STORED[name])


def test_as_measured_it_holds():
    judgement = experiment.judge(stored("measured"))
    assert judgement.verdict is Verdict.HOLDS and "somewhat later" in judgement.reason
    losses = {**stored("measured").series["losses"], "residual-56": [[1.0, 1e-4]] * 3}
    assert "later" not in experiment.judge(Measured(stored("measured").figures, {"losses": losses})).reason


def test_with_skips_in_the_plain_networks_depth_does_no_harm():
    assert experiment.judge(stored("plain with skips")).verdict is Verdict.FAILS


def test_without_skips_residual_networks_degrade_too():
    judgement = experiment.judge(stored("residual without skips"))
    assert judgement.verdict is Verdict.IN_PART and "as well" in judgement.reason


def test_an_error_that_grows_counts_where_the_loss_is_still_below():
    measured = stored("measured")
    figures = {**measured.figures, "residual-56: training error": Figure(3.0, "%")}
    assert experiment.judge(Measured(figures, measured.series)).verdict is Verdict.IN_PART


def test_a_loss_that_is_higher_by_little_is_no_degradation():
    """As of one seed of residual networks: 0.009 against 0.008, with hardly an error in either."""
    losses = {**stored("measured").series["losses"], "plain-20": [[2.3, 0.08]], "plain-56": [[2.3, 0.09]]}
    figures = {**stored("measured").figures, "plain-56: training error": Figure(0.2, "%")}
    assert experiment.judge(Measured(figures, {"losses": losses})).verdict is Verdict.FAILS


def test_a_plain_network_that_diverges_trains_worse():
    measured = stored("measured")
    losses = {**measured.series["losses"], "plain-56": [[2.3, float("nan")]] * 3}
    assert experiment.judge(Measured(measured.figures, {"losses": losses})).verdict is Verdict.HOLDS


def test_one_seed_is_said(monkeypatch):
    monkeypatch.setattr(experiment, "PROTOCOL", Protocol(epochs=1))
    monkeypatch.setattr(experiment, "digits", lambda: SimpleNamespace(split=lambda seed: few(digits().split(seed))))
    monkeypatch.setattr(experiment, "fit_all", partial(fit_all, workers=1))
    arms = {
        f"{kind}-{depth}": partial(SmallResNet, 8, 2, residual=kind == "residual")
        for kind in ("plain", "residual")
        for depth in (20, 56)
    }
    measured = experiment.measure(ONE_SEED, arms)
    assert measured.figures["plain-20: training loss"].n == 1
    assert experiment.judge(measured).verdict is Verdict.FAILS  # plain-56 is as deep as plain-20 here
    single = {name: own[:1] for name, own in stored("measured").series["losses"].items()}
    assert "One seed" in experiment.judge(Measured(stored("measured").figures, {"losses": single})).reason


@pytest.mark.slow
def test_broken_networks_trained_for_real():
    """Skips in the plain networks, and none in the residual ones."""
    swapped = dict(zip(experiment.ARMS, [*experiment.ARMS.values()][2:] + [*experiment.ARMS.values()][:2], strict=True))
    measured = experiment.measure(ONE_SEED, swapped)
    assert experiment.judge(measured).verdict is Verdict.FAILS
    losses, figures = {**measured.series["losses"]}, {**measured.figures}
    for depth in (20, 56):  # nor in the plain ones
        losses[f"plain-{depth}"] = losses[f"residual-{depth}"]
        figures[f"plain-{depth}: training error"] = figures[f"residual-{depth}: training error"]
    assert experiment.judge(Measured(figures, {"losses": losses})).verdict is Verdict.IN_PART
