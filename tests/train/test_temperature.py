"""Temperature, thresholds, and their measurement, against scipy and by hand."""

import math

import numpy as np
import pytest

from vertebra.train.metrics import expected_calibration_error
from vertebra.train.temperature import NO_PRIOR, PRIOR, Prior, cross_entropy, fit_temperature, posterior_loss, softmax


def random_problem(seed, n=60, classes=4, margin=1.0, scale=1.0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(0, 1, (n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += margin
    return logits * np.float32(scale), labels


def test_softmax_and_cross_entropy_against_scipy():
    special = pytest.importorskip("scipy.special")
    logits, labels = random_problem(0, scale=300)
    assert np.allclose(softmax(logits), special.softmax(logits.astype(float), axis=1), atol=1e-12)
    expected = -special.log_softmax(logits.astype(float), axis=1)[np.arange(60), labels].mean()
    assert cross_entropy(logits, labels) == pytest.approx(expected)


def objective(logits, labels, prior):
    """The negative log-posterior of a log temperature, written as the prior's densities are."""
    stats = pytest.importorskip("scipy.stats")

    def of(log_temperature):
        width = prior.sharper if log_temperature < 0 else prior.flatter
        density = stats.norm.logpdf(log_temperature, 0, width) - stats.norm.logpdf(0, 0, width)
        own = softmax(logits / np.exp(log_temperature))[np.arange(len(labels)), labels]
        return -np.log(own).sum() - density

    return of


@pytest.mark.parametrize("prior", [PRIOR, Prior(0.5, 0.1, 1.0), Prior(1e3, 1e3, 1.0)])
@pytest.mark.parametrize(
    ("n", "margin", "scale"), [(5, 1, 1), (60, 1, 1), (60, 1, 8), (60, 1, 0.1), (8, 30, 1), (8, -3, 4), (400, 2, 3)]
)
def test_the_temperature_is_the_best_of_the_posterior(prior, n, margin, scale):
    optimize = pytest.importorskip("scipy.optimize")
    logits, labels = random_problem(n, n=n, margin=margin, scale=scale)
    of = objective(logits, labels, prior)
    best = optimize.minimize_scalar(
        of, bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-9}
    )
    found, loss = posterior_loss(logits, labels, prior)
    assert math.log(found) == pytest.approx(best.x, abs=2e-4)
    assert loss * n == pytest.approx(best.fun, abs=1e-5)
    assert fit_temperature(logits, labels, prior) == found


def test_the_prior_is_that_of_the_head_as_it_is_fitted():
    assert (PRIOR.cost(0.0), PRIOR.slope(0.0)) == (0, 0)
    assert PRIOR.cost(-0.25) == PRIOR.cost(1.0) == 0.5  # a standard deviation each
    assert PRIOR.slope(-0.25) == -4
    assert PRIOR.slope(0.5) == 0.5
    assert PRIOR.curvature(-0.1) == 16
    assert PRIOR.curvature(0.0) == PRIOR.curvature(0.1) == 1
    assert NO_PRIOR.cost(-3) == NO_PRIOR.slope(2) == NO_PRIOR.curvature(2) == 0


def test_easy_photos_are_no_reason_to_be_sure():
    logits, labels = random_problem(2, n=36, classes=3, margin=8)
    assert (logits.argmax(1) == labels).all()
    alone = fit_temperature(logits, labels, NO_PRIOR)
    assert alone < 0.2  # as sharp as is allowed, or nearly
    assert 0.8 < fit_temperature(logits, labels) <= 1.0
    # A hundred times as many say the same, and are believed more, but not without end.
    many = fit_temperature(np.tile(logits, (100, 1)), np.tile(labels, 100))
    assert alone < many < fit_temperature(logits, labels)


def test_without_photos_the_head_is_left_as_it_is():
    assert fit_temperature(np.zeros((0, 3), np.float32), np.zeros(0, int)) == 1.0


def test_bounds():
    # All wrong and sure of it: no temperature is flat enough.
    assert fit_temperature(np.eye(4) * 900, np.arange(4)[::-1], NO_PRIOR) == pytest.approx(20, rel=1e-3)
    # All right: rounding says where the loss is no smaller.
    assert 0.05 <= fit_temperature(np.eye(4) * 9, np.arange(4), NO_PRIOR) < 0.2
    assert fit_temperature(np.eye(4) * 0.5, np.arange(4), NO_PRIOR) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(np.zeros((4, 2)), np.array([0, 1, 0, 1])) == pytest.approx(1.0)


def test_temperature_is_found_again():
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (4000, 5))
    labels = np.array([random.choice(5, p=row) for row in softmax(logits)])
    found = fit_temperature(logits * 3, labels)
    assert found == pytest.approx(3, rel=0.1)
    losses = [cross_entropy(logits * 3 / t, labels) for t in (found * 0.9, found, found * 1.1)]
    assert losses[1] < min(losses[0], losses[2])
    assert expected_calibration_error(softmax(logits * 3 / found), labels) < expected_calibration_error(
        softmax(logits * 3), labels
    )


@pytest.mark.parametrize(("n", "margin", "scale"), [(60, 1, 1), (60, 1, 8), (60, 1, 0.1), (400, 2, 3)])
def test_newtons_method_takes_few_steps(n, margin, scale, monkeypatch):
    """A wrong curvature would find the same temperature by halving the bounds, in four times as many passes."""
    from vertebra.train import temperature

    problem = random_problem(0, n, margin=margin, scale=scale)
    expected = fit_temperature(*problem)
    monkeypatch.setattr(temperature, "_MAX_STEPS", 8)
    assert fit_temperature(*problem) == pytest.approx(expected, rel=1e-5)
