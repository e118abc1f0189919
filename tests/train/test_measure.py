"""Numbers from probabilities, against scikit-learn and by hand."""

import numpy as np
import pytest

from vertebra.train._calibrate import cross_entropy, fit_temperature, rejection, softmax
from vertebra.train._measure import calibration_error, measure, reliability


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
    found = measure(probabilities, labels, tuple("abcdefg"))
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
        assert [getattr(c, name) for c in found.classes] == pytest.approx(list(column)), name
    for value, (low, high) in (
        (found.top1, found.top1_interval),
        (found.top5, found.top5_interval),
        (found.balanced_accuracy, found.balanced_accuracy_interval),
    ):
        assert 0 <= low < value < high <= 1
    pairs = found.most_confused(3)
    assert pairs[0][2] == max(c for t, row in enumerate(found.confusion) for p, c in enumerate(row) if t != p)


def test_equal_probabilities_count_as_argmax_does():
    found = measure(np.full((2, 3), 1 / 3), np.array([0, 1]), tuple("abc"))
    assert found.top1 == 0.5
    assert found.confusion == ((1, 0, 0), (1, 0, 0), (0, 0, 0))


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.39, 0.61], [0.45, 0.55]])
    labels = np.array([0, 1, 1, 0])
    # Bins of a fifteenth: 0.9 twice (half right), 0.61 alone (right), 0.55 alone (wrong).
    assert calibration_error(probabilities, labels) == pytest.approx((2 * 0.4 + 0.39 + 0.55) / 4)
    assert [b.photos for b in reliability(probabilities, labels)] == [1, 1, 2]
    assert reliability(np.array([[1.0, 0.0]]), np.array([0]))[0].confidence == 1.0


def test_temperature_is_found_again():
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (4000, 5))
    labels = np.array([random.choice(5, p=row) for row in softmax(logits)])
    found = fit_temperature(logits * 3, labels)
    assert found == pytest.approx(3, rel=0.1)
    losses = [cross_entropy(logits * 3 / t, labels) for t in (found * 0.9, found, found * 1.1)]
    assert losses[1] < min(losses[0], losses[2])
    assert calibration_error(softmax(logits * 3 / found), labels) < calibration_error(softmax(logits * 3), labels)
    # All right and well apart: no temperature is low enough, and it stays within bounds.
    assert 0.05 <= fit_temperature(np.eye(4) * 9, np.arange(4)) < 0.5


def test_rejection():
    confidence = np.array([0.95, 0.9, 0.8, 0.7, 0.7, 0.6])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 0, 1, 0, 0, 1])
    found = rejection(probabilities, labels, 0.8)
    assert found.threshold == pytest.approx(0.65)
    assert found.coverage == pytest.approx(5 / 6)
    assert rejection(probabilities, labels, 0.99).threshold == pytest.approx(0.85)
    assert rejection(probabilities, labels, 0.5).threshold == 0.0
    # Of two photos of the same confidence none can be answered alone.
    assert rejection(probabilities, np.array([0, 0, 1, 0, 1, 1]), 0.75).threshold == pytest.approx(0.85)
    assert rejection(probabilities, np.ones(6, int), 0.9).threshold is None
