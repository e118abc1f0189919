"""Numbers from probabilities, against scikit-learn and by hand."""

import numpy as np
import pytest

from vertebra.intervals import wilson
from vertebra.train.metrics import (
    ECE_BINS,
    calibration_curve,
    compute_metrics,
    expected_calibration_error,
    picture_weights,
)
from vertebra.train.temperature import softmax


@pytest.fixture
def predictions():
    random = np.random.default_rng(0)
    labels = random.integers(0, 6, 400)
    logits = random.normal(0, 1, (400, 7)).astype(np.float32)  # class 6 has no photos
    logits[np.arange(400), labels] += 1.5
    return logits, labels


def test_against_scikit_learn(predictions):
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = predictions
    probabilities = softmax(logits)
    found = compute_metrics(probabilities, labels, tuple("abcdefg"))
    predicted = probabilities.argmax(1)
    assert found.n == 400
    assert found.top1 == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found.top5 == pytest.approx(metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=range(7)))
    assert found.nll == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(7)))
    recalls = metrics.recall_score(labels, predicted, labels=range(6), average=None)
    assert found.balanced_accuracy == pytest.approx(recalls.mean())
    assert np.array_equal(found.confusion, metrics.confusion_matrix(labels, predicted, labels=range(7)))
    right = metrics.precision_recall_fscore_support(labels, predicted, labels=range(7), zero_division=0)
    for name, column in zip(("precision", "recall", "f1", "photos"), right, strict=True):
        assert [getattr(c, name) for c in found.classes[:6]] == pytest.approx(list(column[:6])), name
    last = found.classes[6]
    assert (last.name, last.precision, last.recall, last.f1, last.photos) == ("g", None, None, None, 0)
    for value, (low, high) in (
        (found.top1, found.top1_interval),
        (found.top5, found.top5_interval),
        (found.balanced_accuracy, found.balanced_accuracy_interval),
    ):
        assert 0 <= low < value < high <= 1
    pairs = found.most_confused(3)
    assert pairs[0][2] == max(c for t, row in enumerate(found.confusion) for p, c in enumerate(row) if t != p)


def test_equal_probabilities_count_as_argmax_does():
    found = compute_metrics(np.full((2, 3), 1 / 3), np.array([0, 1]), tuple("abc"))
    assert found.top1 == 0.5
    assert found.confusion == ((1, 0, 0), (1, 0, 0), (0, 0, 0))


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.39, 0.61], [0.45, 0.55]])
    labels = np.array([0, 1, 1, 0])
    # Bins of a fourth: 0.9 twice (half right); 0.61 (right) and 0.55 (wrong) together.
    assert expected_calibration_error(probabilities, labels, bins=4) == pytest.approx((2 * 0.4 + 2 * 0.08) / 4)
    assert [b.photos for b in calibration_curve(probabilities, labels)] == [1, 1, 2]
    assert [(b.confidence, b.accuracy) for b in calibration_curve(probabilities, labels, bins=4)] == [
        (pytest.approx(0.58), 0.5), (pytest.approx(0.9), 0.5)
    ]  # fmt: skip
    assert calibration_curve(np.array([[1.0, 0.0]]), np.array([0]))[0].confidence == 1.0


def test_a_calibration_of_fewer_photos_than_bins_is_not_measured():
    probabilities, labels = np.tile([[0.8, 0.2]], (ECE_BINS, 1)), np.zeros(ECE_BINS, int)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.2)
    assert expected_calibration_error(probabilities[1:], labels[1:]) is None
    assert compute_metrics(probabilities[1:], labels[1:], ("a", "b")).ece is None


def test_without_photos_there_is_no_figure():
    found = compute_metrics(np.zeros((0, 6)), np.zeros(0, int), tuple("abcdef"))
    values = found.to_dict()
    assert (values.pop("n"), values.pop("pictures")) == (0, 0)
    assert all(c == {"name": n, "precision": None, "recall": None, "f1": None, "photos": 0}
               for c, n in zip(values.pop("classes"), "abcdef", strict=True))  # fmt: skip
    assert values.pop("confusion") == ((0,) * 6,) * 6
    assert set(values) == {
        "top1", "top1_interval", "top5", "top5_interval", "balanced_accuracy", "balanced_accuracy_interval", "ece",
        "nll",
    }  # fmt: skip
    assert set(values.values()) == {None}
    assert found.most_confused() == []


def test_the_best_five_of_five_are_no_figure():
    labels = np.arange(5)
    assert compute_metrics(np.eye(5), labels, tuple("abcde")).top5 is None
    assert compute_metrics(np.eye(5), labels, tuple("abcde")).top5_interval is None
    six = np.full((2, 6), 0.1)
    six[0, 0] = six[1, 0] = 0.5
    # Of equal probabilities the first counts as likelier: the last class is the sixth of six.
    found = compute_metrics(six, np.array([4, 5]), tuple("abcdef"))
    assert found.top5 == 0.5
    assert found.top5_interval == wilson(1, 2)


def test_f1_of_a_class_that_is_never_predicted_rightly():
    found = compute_metrics(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([1, 0]), ("a", "b"))
    assert [(c.precision, c.recall, c.f1) for c in found.classes] == [(0, 0, 0), (0, 0, 0)]
    never = compute_metrics(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([1, 0]), ("a", "b"))
    assert [(c.precision, c.recall, c.f1) for c in never.classes] == [(0.5, 1, pytest.approx(2 / 3)), (None, 0, 0)]


def test_most_confused():
    predicted = [(0, 1)] * 3 + [(1, 0)] * 3 + [(2, 0)] * 1 + [(2, 2)] * 9
    probabilities = np.eye(3)[[p for _, p in predicted]]
    found = compute_metrics(probabilities, np.array([t for t, _ in predicted]), ("a", "b", "c"))
    assert found.most_confused() == [("a", "b", 3), ("b", "a", 3), ("c", "a", 1)]
    assert found.most_confused(1) == [("a", "b", 3)]


def test_balanced_accuracy_and_its_interval_by_hand():
    # Recalls 1 of 1, 2 of 4; Agresti and Coull's spread of each: (2/3)(1/3)/3 and (1/2)(1/2)/6.
    labels = np.array([0, 1, 1, 1, 1])
    found = compute_metrics(np.eye(3)[[0, 1, 1, 0, 2]], labels, ("a", "b", "c"))
    spread = 1.959964 * np.sqrt(2 / 27 + 1 / 24) / 2
    assert found.balanced_accuracy == 0.75
    assert found.balanced_accuracy_interval == pytest.approx((0.75 - spread, 1.0))
    low = compute_metrics(np.eye(3)[[1, 0, 0, 0, 1]], labels, ("a", "b", "c"))
    spread = 1.959964 * np.sqrt(2 / 27 + (1 / 3) * (2 / 3) / 6) / 2
    assert low.balanced_accuracy_interval == pytest.approx((0.0, 0.125 + spread))


def test_a_probability_of_nothing_costs_what_can_be_counted():
    found = compute_metrics(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0]), ("a", "b"))
    assert found.nll == pytest.approx((12 * np.log(10) + np.log(2)) / 2)


def test_the_best_five_of_three_are_no_figure():
    found = compute_metrics(np.eye(3), np.arange(3), tuple("abc"))
    assert found.top5 is None and found.top5_interval is None


def test_the_ten_most_frequent_mistakes_are_named():
    true = np.arange(12)
    assert len(compute_metrics(np.eye(12)[(true + 1) % 12], true, tuple("abcdefghijkl")).most_confused()) == 10


def test_photos_of_the_same_picture_count_as_one_in_intervals():
    random = np.random.default_rng(1)
    labels = random.integers(0, 6, 60)
    probabilities = softmax(random.normal(0, 1, (60, 6)) + 2 * np.eye(6)[labels])
    once = compute_metrics(probabilities, labels, tuple("abcdef"))
    thrice = compute_metrics(
        np.tile(probabilities, (3, 1)), np.tile(labels, 3), tuple("abcdef"), picture_weights(np.tile(np.arange(60), 3))
    )
    assert (once.n, once.pictures, thrice.n, thrice.pictures) == (60, 60, 180, 60)
    for name in ("top1", "top5", "balanced_accuracy"):
        assert getattr(thrice, name) == pytest.approx(getattr(once, name))
        assert getattr(thrice, f"{name}_interval") == pytest.approx(getattr(once, f"{name}_interval"))
    alone = compute_metrics(np.tile(probabilities, (3, 1)), np.tile(labels, 3), tuple("abcdef"))
    assert alone.top1_interval[0] > once.top1_interval[0]  # as if they were independent
    assert picture_weights(np.array([4, 4, 7, 4])).tolist() == pytest.approx([1 / 3, 1 / 3, 1, 1 / 3])
