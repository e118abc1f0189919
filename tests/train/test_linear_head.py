"""The strength of a head, its share of the discriminant, and what it predicts of held-out photos."""

import itertools
import threading

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from vertebra.train import linear_head
from vertebra.train.linear_head import SHARES, STRENGTHS, Recipe, choose_strength, cross_validate, fit_discriminant
from vertebra.train.logistic_regression import Solver
from vertebra.train.temperature import NO_PRIOR, Prior, cross_entropy, fit_temperature, posterior_loss


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(0)
    centres = random.normal(0, 1, (4, 20))
    labels = random.integers(0, 4, 300)
    return (centres[labels] + random.normal(0, 1.5, (300, 20)) + 5).astype(np.float32), labels


def halves(features, labels):
    return [((features[:100], labels[:100]), (features[100:], labels[100:]))]


def test_noise_is_regularised_more_than_signal():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 200)
    noise = random.normal(0, 1, (200, 50)).astype(np.float32)
    strong, _, trials = choose_strength(halves(noise, labels), 2, NO_PRIOR)
    clear = (noise[:, :5] * 0.1 + labels[:, None] * 4).astype(np.float32)
    weak, (head,), _ = choose_strength(halves(clear, labels), 2, NO_PRIOR)
    assert strong > weak
    assert [t.strength for t in trials] == sorted((t.strength for t in trials), reverse=True)
    assert (head.logits(clear).argmax(1) == labels).all()


def test_photos_that_any_head_tells_apart_ask_for_no_weaker_one():
    random = np.random.default_rng(0)
    labels = np.arange(36) % 3
    features = (random.normal(0, 1, (36, 40)) + 4 * np.eye(40)[labels]).astype(np.float32)
    parts = [((features[:24], labels[:24]), (features[24:], labels[24:]))]
    strength, _, trials = choose_strength(parts, 3)
    assert all(t.accuracy == 1 for t in trials)
    assert strength == STRENGTHS[len(STRENGTHS) // 2]
    weaker, _, trials = choose_strength(parts, 3, NO_PRIOR)
    assert weaker < strength
    assert min(t.loss for t in trials) < 0.01


def test_a_strength_is_chosen_by_all_parts(problem):
    features, labels = problem
    parts = []
    for fold in range(3):
        out = np.arange(300) % 3 == fold
        parts.append(((features[~out], labels[~out]), (features[out], labels[out])))
    strength, heads, trials = choose_strength(parts, 4)
    truth = np.concatenate([val[1] for _, val in parts])
    for trial in trials:
        fitted = [Solver(*train, 4).fit(trial.strength) for train, _ in parts]
        logits = np.concatenate([head.logits(val[0]) for head, (_, val) in zip(fitted, parts, strict=True)])
        assert trial.loss == pytest.approx(cross_entropy(logits / fit_temperature(logits, truth), truth), abs=0.03)
        assert trial.accuracy == pytest.approx((logits.argmax(1) == truth).mean(), abs=0.02)
    assert len(heads) == 3
    one = Solver(*parts[1][0], 4).fit(strength).logits(features)
    assert np.abs(heads[1].logits(features) - one).max() < 0.05 * one.std()


def test_what_a_strength_gains_has_to_outweigh_the_prior():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 200)
    noise = random.normal(0, 1, (200, 50)).astype(np.float32)
    trials = {t.strength: t.loss for t in choose_strength(halves(noise, labels), 2, NO_PRIOR)[2]}
    gain = trials[1e-5] - trials[3e-5]
    # Where both come to the same: the square of the step's logarithm over twice the variance, for 100 photos.
    deviation = np.log(3e-5 / 1e-5) / np.sqrt(2 * gain * 100)
    for factor, stays in ((0.95, True), (1.05, False)):
        prior = Prior(np.inf, np.inf, deviation * factor)
        assert (choose_strength(halves(noise, labels), 2, prior)[0] == 1e-5) is stays


def test_no_photo_is_predicted_by_a_head_that_saw_it(problem):
    features, _ = problem
    # Labels without any rule: seen photos would be predicted well, unseen ones are not.
    labels = np.random.default_rng(2).integers(0, 4, 300)
    calls = []
    found = cross_validate(features, labels, np.arange(300) % 3, 4, lambda *call: calls.append(call))
    assert (found.softmax_logits.argmax(1) == labels).mean() < 0.4
    assert (found.discriminant_logits.argmax(1) == labels).mean() < 0.4
    assert found.strength in {t.strength for t in found.trials}
    assert calls == [("fitting", 1, 3), ("fitting", 2, 3), ("fitting", 3, 3)]
    assert found.measurable.all()


def test_folds_that_are_fitted_side_by_side_get_the_same_heads(problem, monkeypatch):
    features, labels = problem
    folds, threads = np.arange(300) % 6, set()
    fit = Solver.fit

    def watched(self, *settings):
        threads.add((threading.get_ident(), torch.get_num_threads()))
        return fit(self, *settings)

    monkeypatch.setattr(Solver, "fit", watched)
    monkeypatch.setattr(linear_head, "_MIN_PHOTOS", 10)  # the first fold chooses, five are left
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        monkeypatch.setattr(linear_head, "_PARALLEL_BYTES", 4 * features.nbytes)  # of which two copies are a fold's
        found = cross_validate(features, labels, folds, 4)
        assert {count for thread, count in threads if thread != threading.get_ident()} == {2}
        threads.clear()
        monkeypatch.setattr(linear_head, "_PARALLEL_BYTES", 3 * features.nbytes)
        alone = cross_validate(features, labels, folds, 4)
        assert threads == {(threading.get_ident(), 4)}
    finally:
        torch.set_num_threads(before)
    assert found.strength == alone.strength
    assert np.abs(found.softmax_logits - alone.softmax_logits).max() < 1e-3 * alone.softmax_logits.std()


def test_the_discriminant_of_a_fold_is_that_of_the_photos_outside_of_it(problem):
    features, labels = problem
    found = cross_validate(features, labels, np.arange(300) % 3, 5)
    for fold in range(3):
        out = np.arange(300) % 3 == fold
        expected = fit_discriminant(features[~out], labels[~out], 5).logits(features[out])
        assert found.discriminant_logits[out] == pytest.approx(expected, abs=1e-4 * float(expected[:, :4].std()))


@pytest.mark.parametrize("count", [300, 1500])
def test_of_many_photos_the_largest_folds_choose(count):
    random = np.random.default_rng(6)
    labels = np.arange(count) % 2
    features = (random.normal(0, 1, (count, 3)) + labels[:, None]).astype(np.float32)
    folds = np.repeat([7, 3, 9], [count // 5, count // 2, count - count // 5 - count // 2])
    found = cross_validate(features, labels, folds, 2)
    # 300 held-out photos are enough: of 1,500 the largest fold has 750 of them, of 300 all folds are asked.
    chosen = folds == 3 if count == 1500 else folds >= 0
    logits = found.softmax_logits[chosen]
    (trial,) = [t for t in found.trials if t.strength == found.strength]
    assert trial.accuracy == (logits.argmax(1) == labels[chosen]).mean()
    assert trial.loss == pytest.approx(posterior_loss(logits, labels[chosen])[1], abs=2e-3)
    assert trial.loss == pytest.approx(
        cross_entropy(logits / fit_temperature(logits, labels[chosen]), labels[chosen]), abs=1e-4
    )


def test_what_no_head_could_know_is_not_measured():
    random = np.random.default_rng(8)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    folds = np.array([0, 1, 2, 0, 0, 1, 2, 1])  # both of class 1 are held out together, and that of class 3
    found = cross_validate(random.normal(0, 1, (8, 5)).astype(np.float32), labels, folds, 4)
    assert found.measurable.tolist() == [True, True, True, False, False, True, True, False]
    assert all(t.accuracy * 5 == pytest.approx(round(t.accuracy * 5)) for t in found.trials)


def test_photos_of_a_single_class_measure_nothing():
    labels = np.array([0, 0, 0, 0, 1])
    features = np.random.default_rng(8).normal(0, 1, (5, 4)).astype(np.float32)
    assert not cross_validate(features, labels, np.array([0, 1, 2, 0, 1]), 2).measurable.any()
    labels[0] = 1
    found = cross_validate(features, labels, np.array([0, 1, 2, 0, 1]), 2)
    assert found.measurable.all()


def test_one_photo_a_class_leaves_the_head_as_it_is():
    features = np.eye(3, dtype=np.float32)
    found = cross_validate(features, np.arange(3), np.arange(3), 3)
    assert not found.measurable.any()
    assert found.trials == []
    recipe, temperature = found.recipe(np.zeros(0, int))
    assert (recipe, temperature) == (Recipe(1e-5, 1.0, 0.0), 1.0)
    assert (recipe.fit(features, np.arange(3), 3).logits(features).argmax(1) == np.arange(3)).all()


def test_the_recipe_is_the_best_share_on_the_photos_that_are_given(problem):
    features, labels = problem
    found = cross_validate(features, labels, np.arange(300) % 3, 4)
    for places in (np.arange(300), np.arange(40)):
        one, other, truth = found.softmax_logits[places], found.discriminant_logits[places], labels[places]
        spread = [np.sqrt(((x - x.mean(1, keepdims=True)).astype(float) ** 2).mean()) for x in (one, other)]
        shares = {
            share: posterior_loss((1 - share) * one + share * spread[0] / spread[1] * other, truth)
            for share in SHARES
        }  # fmt: skip
        best = min(shares, key=lambda share: shares[share][1])
        recipe, temperature = found.recipe(places)
        assert recipe.strength == found.strength
        assert recipe.softmax_factor == 1 - best
        assert recipe.discriminant_factor == pytest.approx(best * spread[0] / spread[1], rel=1e-5)
        assert temperature == pytest.approx(shares[best][0], rel=1e-4)
    assert found.recipe(np.arange(300), NO_PRIOR)[1] != found.recipe(np.arange(300))[1]


def test_of_very_many_photos_a_sample_chooses_the_recipe(problem, monkeypatch):
    features, labels = problem
    found = cross_validate(features, labels, np.arange(300) % 3, 4)
    right = found.recipe(np.arange(300))
    monkeypatch.setattr(linear_head, "_MAX_PHOTOS", 200)
    recipe, temperature = found.recipe(np.arange(300))
    assert temperature != right[1] and temperature == pytest.approx(right[1], rel=0.2)
    assert found.recipe(np.arange(300)) == (recipe, temperature)


def test_the_recipe_makes_the_head_that_was_measured(problem):
    features, labels = problem
    found = cross_validate(features, labels, np.arange(300) % 3, 4)
    for recipe in (found.recipe(np.arange(300))[0], Recipe(found.strength, 0.4, 0.1), Recipe(found.strength, 0.7)):
        logits = recipe.logits(found.softmax_logits, found.discriminant_logits)
        out = np.arange(300) % 3 == 1
        again = recipe.fit(features[~out], labels[~out], 4).logits(features[out])
        assert np.abs(again - logits[out]).max() < 0.05 * logits.std()


def test_the_discriminant_is_that_of_scikit_learn(problem):
    analysis = pytest.importorskip("sklearn.discriminant_analysis")
    features, labels = problem
    found = fit_discriminant(features, labels, 5)  # of the last class there is no photo
    # scikit-learn's mixes with the mean variance in shares; half and half are the same directions, twice as long.
    right = analysis.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5).fit(features, labels)
    weight = found.weight[:, :4] * 2
    assert np.abs(weight - weight.mean(1, keepdims=True) - (right.coef_ - right.coef_.mean(0)).T).max() < 0.05
    assert (found.logits(features).argmax(1) < 4).all()


def test_the_discriminant_of_fewer_photos_than_features_is_the_same():
    random = np.random.default_rng(9)
    labels = np.arange(21) % 3
    features = (random.normal(0, 1, (21, 50)) + labels[:, None]).astype(np.float32)
    found = fit_discriminant(features, labels, 3)
    means = np.stack([features[labels == c].mean(0) for c in range(3)]).astype(float)
    rest = features - means[labels]
    covariance = rest.T @ rest / 21
    covariance += (np.trace(covariance) / 50 + 1e-6) * np.eye(50)
    weight = np.linalg.solve(covariance, means.T)
    assert found.weight == pytest.approx(weight, abs=1e-4 * abs(weight).max())
    assert found.bias == pytest.approx(np.log(7) - (means * weight.T).sum(1) / 2, rel=1e-4)


def test_strengths_fall_by_thirds():
    ratios = [stronger / weaker for stronger, weaker in itertools.pairwise(STRENGTHS)]
    assert all(2.9 < ratio < 3.4 for ratio in ratios) and STRENGTHS[len(STRENGTHS) // 2] == 1e-5


def test_shares_rise_from_none_to_a_half():
    assert list(SHARES) == sorted(SHARES) and SHARES[0] == 0 and SHARES[-1] == 0.5
