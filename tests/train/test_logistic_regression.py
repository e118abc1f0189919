"""Multinomial logistic regression, against scikit-learn's."""

import numpy as np
import pytest

pytest.importorskip("torch")

from sklearn.linear_model import LogisticRegression

from vertebra.train import logistic_regression
from vertebra.train.logistic_regression import Head, Solver
from vertebra.train.temperature import cross_entropy


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(0)
    centres = random.normal(0, 1, (4, 20))
    labels = random.integers(0, 4, 300)
    return (centres[labels] + random.normal(0, 1.5, (300, 20)) + 5).astype(np.float32), labels


@pytest.mark.parametrize("strength", [1e-1, 1e-3, 1e-5])
def test_it_is_as_good_as_scikit_learns(problem, strength):
    features, labels = problem
    head = Solver(features, labels, 4).fit(strength)
    scaled = features - features.mean(0)
    scale = np.linalg.norm(scaled, axis=1).mean()
    theirs = LogisticRegression(C=1 / (strength * len(labels)), tol=1e-8, max_iter=10_000).fit(scaled / scale, labels)

    def loss(weight, logits):
        return cross_entropy(logits, labels) + strength / 2 * (weight**2).sum()

    best = loss(theirs.coef_, theirs.decision_function(scaled / scale))
    assert best - 1e-6 < loss(head.weight * scale, head.logits(features)) < best + 1e-4


def test_a_step_that_would_go_too_far_is_shortened():
    # Far outliers: Newton's step size from where the curvature is nearly nothing would throw the weights away.
    features = np.random.default_rng(3).normal(0, 1, (60, 4)).astype(np.float32)
    features[:3] *= 1e4
    labels = np.arange(60) % 2
    head = Solver(features, labels, 2).fit(1e-7)
    assert np.isfinite(head.weight).all()
    assert cross_entropy(head.logits(features), labels) < np.log(2)


def test_a_warm_start_changes_nothing(problem):
    features, labels = problem
    solver = Solver(features, labels, 4)
    solver.fit(1e-2)
    warm, cold = solver.fit(1e-3), Solver(features, labels, 4).fit(1e-3)
    assert np.abs(warm.logits(features) - cold.logits(features)).max() < 0.05


def test_it_starts_from_a_head(problem):
    features, labels = problem
    cold = Solver(features, labels, 4)
    expected = cold.fit(1e-4)
    near = [Solver(features[part], labels[part], 4).fit(1e-4) for part in (slice(None, None, 2), slice(1, None, 2))]
    warm = Solver(features, labels, 4)
    warm.start_from(Head(sum(one.weight for one in near) / 2, sum(one.bias for one in near) / 2))
    found = warm.fit(1e-4).logits(features) - expected.logits(features)
    assert np.abs(found - found.mean(1, keepdims=True)).max() < 0.05  # a constant added to all classes changes nothing
    warm.start_from(expected)
    steps = warm.steps
    warm.fit(1e-4)
    assert warm.steps - steps <= 2 < cold.steps, "what is converged takes no further step"


def test_features_of_unequal_variance_take_fewer_steps_when_preconditioned(problem, monkeypatch):
    features, labels = problem[0][:120] * np.geomspace(0.1, 10, 20, dtype=np.float32), problem[1][:120]
    scaled = Solver(features, labels, 4)
    found = scaled.fit(1e-4, 1e-7).logits(features)
    monkeypatch.setattr(logistic_regression, "_VARIANCE_POWER", 0.0)
    plain = Solver(features, labels, 4)
    difference = plain.fit(1e-4, 1e-7).logits(features) - found
    assert np.abs(difference - difference.mean(1, keepdims=True)).max() < 0.02 * found.std()
    assert scaled.steps < 0.8 * plain.steps


def test_one_class_takes_no_step(problem):
    features, labels = problem
    head = Solver(features, np.zeros_like(labels), 1).fit(1e-5)
    assert not head.weight.any() and not head.bias.any()


def test_a_trial_stops_when_the_loss_hardly_falls(problem):
    features, labels = problem
    steps = []
    for min_change in (0.1, 1e-3, 1e-6):
        solver = Solver(features, labels, 4)
        solver.fit(1e-5, min_change)
        steps.append(solver.steps)
    assert steps[0] <= 4 and steps == sorted(set(steps))
