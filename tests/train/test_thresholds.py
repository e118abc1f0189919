"""Thresholds for a target precision, and what they do on other photos."""

import numpy as np
import pytest

from vertebra.intervals import wilson
from vertebra.train.temperature import fit_temperature, softmax
from vertebra.train.thresholds import Rejection, Threshold, cross_fit, fit_threshold, measure_rejection


def random_problem(seed, n=60, classes=4, margin=1.0, scale=1.0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    logits = random.normal(0, 1, (n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += margin
    return logits * np.float32(scale), labels


CONFIDENCE = np.array([0.95, 0.9, 0.8, 0.7, 0.7, 0.6])


PROBABILITIES = np.stack([CONFIDENCE, 1 - CONFIDENCE], axis=1)


def test_a_threshold_is_the_lowest_that_is_expected_to_do():
    labels = np.array([0, 0, 1, 0, 0, 1])
    # Right ones among the first n, one more right and one more wrong added: 2/3, 3/4, 3/5, 4/6, 5/7, 5/8.
    found = fit_threshold(PROBABILITIES, labels, 0.7)
    assert found == Threshold(0.7, pytest.approx(0.65), pytest.approx(5 / 7), True)
    assert fit_threshold(PROBABILITIES, labels, 0.75).value == pytest.approx(0.85)  # the estimate is exactly that
    assert fit_threshold(PROBABILITIES, labels, 5 / 8).reached
    assert found.answers(CONFIDENCE).tolist() == [True] * 5 + [False]
    assert Threshold(0.5, 0.8, None, True).answers(CONFIDENCE).tolist() == [True] * 3 + [False] * 3


def test_photos_of_the_same_confidence_are_answered_together():
    labels = np.array([0, 0, 1, 0, 1, 1])  # 2/3, 3/4, 3/5, [4/6], 4/7, 4/8
    assert fit_threshold(PROBABILITIES, labels, 0.66).value == pytest.approx(0.85)
    unreachable = fit_threshold(PROBABILITIES[3:5], np.array([0, 1]), 0.6)  # alone the first would be the best
    assert unreachable == Threshold(0.6, pytest.approx(0.7, rel=1e-4), 0.5, False)


def test_what_cannot_be_reached_takes_the_best_there_is():
    labels = np.array([0, 0, 1, 0, 0, 1])
    found = fit_threshold(PROBABILITIES, labels, 0.99)
    assert found == Threshold(0.99, pytest.approx(0.85), 0.75, False)
    # Of equals the one that answers more: 2/3, 2/4, 3/5, 4/6.
    ties = fit_threshold(PROBABILITIES[[0, 1, 2, 3]], np.array([0, 1, 0, 0]), 0.9)
    assert ties.estimate == pytest.approx(4 / 6)
    assert ties.value == pytest.approx(0.7, rel=1e-4)
    assert fit_threshold(PROBABILITIES, np.ones(6, int), 0.9).estimate == pytest.approx(1 / 3)


def test_nothing_is_answered_that_is_less_sure_than_what_was_measured():
    found = fit_threshold(PROBABILITIES, np.zeros(6, int), 0.5)
    assert found.reached
    assert 0.6 * (1 - 1e-5) < found.value < 0.6
    assert found.answers(CONFIDENCE).all()


@pytest.mark.parametrize(("n", "reached"), [(17, False), (18, True)])
def test_a_few_photos_all_right_show_no_high_precision(n, reached):
    found = fit_threshold(np.tile([[0.9, 0.1]], (n, 1)), np.zeros(n, int), 0.95)
    assert found.reached is reached
    assert found.estimate == pytest.approx((n + 1) / (n + 2))


def test_no_target_and_no_photos():
    assert fit_threshold(PROBABILITIES, np.zeros(6, int), 0.0) == Threshold(0.0, None, None, True)
    assert fit_threshold(np.zeros((0, 2)), np.zeros(0, int), 0.9) == Threshold(0.9, None, None, False)
    assert Threshold(0.9, None, None, False).answers(CONFIDENCE).all()


def test_why_a_target_is_not_reached():
    """The estimate is another figure than the share that was right."""
    sure = np.tile([0.9, 0.1], (8, 1))
    eight = fit_threshold(sure, np.zeros(8, int), 0.95)
    found = measure_rejection(eight, np.ones(8, bool), np.ones(8, bool))
    assert str(found) == "target precision 0.95 not reached: 0.9"
    assert found.precision == 1
    assert found.why == "0.9 is expected of the next answer, from 8 right of 8"
    copies = fit_threshold(sure, np.array([0] * 7 + [1]), 0.95, np.array([1.0] * 7 + [0.5]))
    assert measure_rejection(copies, np.ones(8, bool), np.ones(8, bool)).why.endswith("from 7 right of 7.5")
    reached = fit_threshold(sure, np.zeros(8, int), 0.9)
    assert measure_rejection(reached, np.ones(8, bool), np.ones(8, bool)).why is None


def test_what_a_threshold_did():
    answered, right = np.array([True, True, True, False]), np.array([True, True, False, True])
    found = measure_rejection(Threshold(0.9, 0.7, 0.95, True), answered, right)
    assert found == Rejection(0.9, 0.7, True, 0.95, 0.75, 2 / 3, wilson(2, 3))
    none = measure_rejection(Threshold(0.9, 0.7, 0.8, False), np.zeros(4, bool), right)
    assert none == Rejection(0.9, 0.7, False, 0.8, 0.0, None, None)
    nothing = measure_rejection(Threshold(0.9, None, None, False), np.zeros(0, bool), np.zeros(0, bool))
    assert nothing == Rejection(0.9, None, False, None, None, None, None)


@pytest.mark.parametrize(
    ("target", "estimate", "reached", "text"),
    [
        (0.99, 0.934, False, "target precision 0.99 not reached: 0.93"),
        (0.99, 0.98999, False, "target precision 0.99 not reached: 0.98"),
        (0.995, 0.99495, False, "target precision 0.995 not reached: 0.99"),
        (0.905, 0.9049, False, "target precision 0.905 not reached: 0.9"),
        (0.9, 0.5, True, "target precision 0.9 reached"),
        (0.9, None, False, "target precision 0.9 not measured"),
        (0.0, None, True, "no target precision"),
    ],
)
def test_what_is_said_of_a_target(target, estimate, reached, text):
    assert str(Rejection(target, 0.5, reached, estimate, None, None, None)) == text


def test_each_part_is_judged_by_what_was_fitted_to_the_others():
    logits, labels = random_problem(4, n=30, classes=3)
    parts = np.array([2, 0, 1] * 10)
    asked = []

    def fit(places):
        asked.append(places.tolist())
        temperature = fit_temperature(logits[places], labels[places])
        return lambda others: softmax(logits[others] / temperature)

    probabilities, answered = cross_fit(fit, labels, parts, (0.5, 0.8))
    assert [set(parts[places]) for places in asked] == [{1, 2}, {0, 2}, {0, 1}]
    for part in range(3):
        own, others = parts == part, parts != part
        temperature = fit_temperature(logits[others], labels[others])
        assert np.allclose(probabilities[own], softmax(logits[own] / temperature))
        for column, target in enumerate((0.5, 0.8)):
            found = fit_threshold(softmax(logits[others] / temperature), labels[others], target)
            assert answered[own, column].tolist() == found.answers(probabilities[own].max(1)).tolist()
    assert answered.shape == (30, 2)
    assert 0 < answered[:, 1].sum() < answered[:, 0].sum()


def test_a_single_photo_is_judged_by_nothing():
    probabilities, answered = cross_fit(
        lambda places: lambda others: softmax(np.array([[2.0, 0.0]])[others]), np.array([0]), np.array([0]), (0.9,)
    )
    assert probabilities == pytest.approx(softmax(np.array([[2.0, 0.0]])))
    assert answered.all()


def test_a_threshold_counts_photos_of_the_same_picture_as_one():
    once = fit_threshold(PROBABILITIES, np.zeros(6, int), 0.7)
    many = np.tile(PROBABILITIES, (10, 1))
    weights = np.full(60, 0.1)
    found = fit_threshold(many, np.zeros(60, int), 0.7, weights)
    assert (found.value, found.estimate, found.reached) == (
        pytest.approx(once.value), pytest.approx(once.estimate), once.reached
    )  # fmt: skip
    assert fit_threshold(many, np.zeros(60, int), 0.7).estimate != pytest.approx(once.estimate)
    answered, right = np.tile([True, True, False], 4), np.tile([True, False, True], 4)
    copies = measure_rejection(Threshold(0.9, 0.7, 0.95, True), answered, right, np.full(12, 0.25))
    assert copies.precision_interval == pytest.approx(wilson(1, 2))
    assert (copies.coverage, copies.precision) == (pytest.approx(2 / 3), 0.5)
