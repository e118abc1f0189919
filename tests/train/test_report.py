"""What a report says, from predictions alone."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from vertebra.card import Decoding, Preprocessing
from vertebra.data import Photo
from vertebra.intervals import wilson
from vertebra.report import line_chart
from vertebra.train.evaluation import Calibration, evaluate_predictions
from vertebra.train.report_page import Report, describe_preprocessing

NAMES = ("cat", "dog", "hen")


def held_out(labels, predicted, sure=3.0, pictures=None, precision=0.8):
    """Predictions of photos that are not there, each with the same confidence."""
    logits = np.zeros((len(labels), 3))
    logits[np.arange(len(labels)), predicted] = np.broadcast_to(sure, len(labels))
    labels = np.array(labels, np.int64)
    photos = [Photo(Path("photos") / NAMES[label] / f"{i}.png", NAMES[label]) for i, label in enumerate(labels)]
    calibration = Calibration.fit(logits, labels, precision, temperature=1.0)
    return evaluate_predictions("some", photos, labels, logits, calibration, NAMES, pictures=pictures)


def page_of(held, tmp_path, **fields):
    made = Report("a title", "Training report", "a summary", held, Decoding(), **fields)
    text = made.html(tmp_path)
    return text, json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


def text_of(page, section):
    content = re.search(f'<section[^>]*id="{section}".*?</section>', page, re.DOTALL)[0]
    return " ".join(re.sub("<[^>]*>", " ", content).split())


def test_recall_of_a_class_has_an_interval_in_which_copies_count_once(tmp_path):
    labels, predicted = [0] * 8 + [1] * 4, [0] * 6 + [1] * 2 + [1] * 4
    text, _ = page_of(held_out(labels, predicted), tmp_path)
    low, high = wilson(6, 8)
    assert f"{100 * low:.1f} – {100 * high:.1f} %" in text_of(text, "classes")
    # Twice two photos of the same picture: six pictures, of the eight photos.
    pictures = np.array([0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    text, _ = page_of(held_out(labels, predicted, pictures=pictures), tmp_path)
    low, high = wilson(0.75 * 6, 6)
    assert f"{100 * low:.1f} – {100 * high:.1f} %" in text_of(text, "classes")
    assert "hen not measured" in text_of(text, "classes")


def test_suspicious_labels_stand_beside_typical_photos(tmp_path):
    labels, predicted = [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0]
    sure = [4.0, 6.0, 9.0, 5.0, 4.0, 1.0]
    text, data = page_of(held_out(labels, predicted, np.array(sure)), tmp_path)
    errors = text_of(text, "errors")
    assert errors.startswith("Errors: 2 Suspicious labels")
    assert "cat → dog · 100.0 % 2.png labelled cat 1.png typical cat 3.png typical dog" in errors
    assert "5.png" not in errors, "not sure enough"
    held = data["held"]
    assert [held["shown"][i] for i in held["others"]] == ["dog/5.png"]
    assert held["wrong"] == 2
    assert held["matrix"] == [[0, 0, 2], [0, 1, 1], [1, 0, 1], [1, 1, 2]]
    assert held["clustered"][:2] == [0, 1]


@pytest.mark.parametrize(
    ("precision", "threshold", "expected"),
    [
        (0.8, 0.7, "The exported classifier answers “unsure” where its highest probability is below 0.700. Coverage"),
        (0.0, None, "No threshold is set: the exported classifier answers every photo. Coverage 100.0 %, precision"),
        (0.99, 0.9, "Target precision 0.99 not reached: 0.9"),
    ],
)
def test_what_the_exported_classifier_does(tmp_path, precision, threshold, expected):
    held = held_out([0, 1] * 20, [0, 1] * 20, precision=precision)
    text, data = page_of(held, tmp_path, threshold=threshold)
    assert expected in text_of(text, "confidence")
    assert data["held"]["threshold"] == threshold


def test_nothing_measured(tmp_path):
    text, data = page_of(held_out([], []), tmp_path, curves=[line_chart("Loss", "epoch", [1.0, float("nan")])])
    assert data["held"] is None
    assert text_of(text, "confidence") == "Calibration and threshold Not measured: there are no held-out photos."
    assert 'id="confusions"' not in text
    assert "100.0 %" not in re.sub("(?s)<style>.*?</style>|<svg.*?</svg>", "", text)


def test_preprocessing_in_a_line():
    assert describe_preprocessing(
        Preprocessing(224, 256, "bilinear", (0.485, 0.5, 0.25), (1, 1, 1), Decoding(bits=12))
    ) == (
        "shorter side to 256 pixels (bilinear), centre 224 × 224; mean 0.485, 0.5, 0.25; standard deviation 1, 1, 1; "
        "16-bit files: 12 bits used"
    )
