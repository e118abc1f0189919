"""The softmax head, against scikit-learn's."""

import numpy as np
import pytest

pytest.importorskip("torch")

from sklearn.linear_model import LogisticRegression

from vertebra.train._calibrate import cross_entropy
from vertebra.train._head import Solver, choose_strength, cross_validated, discriminant


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(0)
    centres = random.normal(0, 1, (4, 20))
    labels = random.integers(0, 4, 300)
    return (centres[labels] + random.normal(0, 1.5, (300, 20)) + 5).astype(np.float32), labels


@pytest.mark.parametrize("strength", [1e-1, 1e-3, 1e-5])
def test_the_softmax_is_as_good_as_scikit_learns(problem, strength):
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
    # Far outliers: Newton's length from where the curvature is nearly nothing would throw the weights away.
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


def test_noise_is_regularised_more_than_signal():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 200)
    noise = random.normal(0, 1, (200, 50)).astype(np.float32)
    strong, _, trials = choose_strength((noise[:100], labels[:100]), (noise[100:], labels[100:]), 2)
    clear = (noise[:, :5] * 0.1 + labels[:, None] * 4).astype(np.float32)
    weak, head, _ = choose_strength((clear[:100], labels[:100]), (clear[100:], labels[100:]), 2)
    assert strong > weak
    assert [t.strength for t in trials] == sorted((t.strength for t in trials), reverse=True)
    assert (head.logits(clear).argmax(1) == labels).all()


def test_no_photo_is_predicted_by_a_head_that_saw_it(problem):
    features, _ = problem
    # Labels without any rule: seen photos would be predicted well, unseen ones are not.
    labels = np.random.default_rng(2).integers(0, 4, 300)
    calls = []
    logits, recipe, trials = cross_validated(
        features, labels, np.arange(300) % 3, 4, lambda done, total: calls.append((done, total))
    )
    assert (logits.argmax(1) == labels).mean() < 0.4
    assert recipe.strength in {t.strength for t in trials}
    assert calls[-1] == (3, 3)


def test_the_recipe_makes_the_head_that_was_measured(problem):
    features, labels = problem
    logits, recipe, _ = cross_validated(features, labels, np.arange(300) % 3, 4)
    out = np.arange(300) % 3 == 1
    again = recipe.fit(features[~out], labels[~out], 4).logits(features[out])
    assert np.abs(again - logits[out]).max() < 0.05


def test_the_discriminant_is_that_of_scikit_learn(problem):
    analysis = pytest.importorskip("sklearn.discriminant_analysis")
    features, labels = problem
    found = discriminant(features, labels, 5)  # of the last class there is no photo
    # scikit-learn's mixes with the mean variance in shares; half and half are the same directions, twice as long.
    right = analysis.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5).fit(features, labels)
    weight = found.weight[:, :4] * 2
    assert np.abs(weight - weight.mean(1, keepdims=True) - (right.coef_ - right.coef_.mean(0)).T).max() < 0.05
    assert (found.logits(features).argmax(1) < 4).all()
