"""How large a page of many photos is, and what it leaves to its links."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
from vertebra.card import Decoding
from vertebra.data import Photo
from vertebra.report.thumbnails import MAX_BYTES, MAX_THUMBNAILS
from vertebra.train import report_page
from vertebra.train.evaluation import Calibration, evaluate_predictions
from vertebra.train.report_page import Report


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """6,000 photos of 100 classes under long names: one file under many."""
    root = tmp_path_factory.mktemp("photos")
    first = root / "first.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (14, 18, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((180, 140), Image.Resampling.BICUBIC).save(first)
    found = []
    for number in range(6000):
        label = f"a class with a long name {number % 100:02}"
        path = root / label / f"photo of the collection, number {number:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        os.link(first, path)
        found.append(Photo(path, label))
    return found


def made(photos, folder, wrong):
    names = sorted({photo.label for photo in photos})
    labels = np.array([names.index(photo.label) for photo in photos])
    random = np.random.default_rng(1)
    logits = random.normal(0, 1, (len(photos), len(names)))
    logits[np.arange(len(photos)), labels] += 8
    logits[np.arange(wrong), (labels[:wrong] + 3) % len(names)] += random.uniform(4, 14, wrong)
    held = evaluate_predictions("made up", photos, labels, logits, Calibration.fit(logits, labels, 0.9), names)
    page = Report("x", "Training report", "x", held, Decoding(), threshold=held.rejections[-1].threshold)
    text = page.html(folder)
    return text, json.loads(re.search(r'id="data">(.*?)</script>', text)[1])


@pytest.mark.slow
def test_6000_photos_with_as_many_thumbnails_as_there_may_be(photos, tmp_path):
    text, data = made(photos, tmp_path, wrong=2500)
    assert len(data["pictures"]) == MAX_THUMBNAILS
    assert max(len(address) for address, *_ in data["pictures"]) < 30 + MAX_BYTES * 4 / 3
    assert len(text.encode()) < 5_000_000
    assert len(data["held"]["shown"]) == len(data["held"]["truth"]) == 6000, "the others are named, with their links"


def test_wrong_photos_and_those_near_the_threshold_have_thumbnails(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "_NEAR", 20)
    _, data = made(photos[:300], tmp_path, wrong=30)
    held = data["held"]
    own = {int(number) for number in held["keys"]}
    wrong = [i for i in range(300) if held["truth"][i] != held["predicted"][i]]
    assert len(wrong) > 10
    assert wrong == list(range(len(wrong))), "they come first"
    near = sorted(range(300), key=lambda i: abs(held["confidence"][i] - held["threshold"]))
    assert own >= {*wrong, *near[:20]}
    assert len(own) < 120
    assert [held["confidence"][i] for i in wrong] == sorted((held["confidence"][i] for i in wrong), reverse=True)


def test_a_page_names_only_so_many(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "_NAMED", 50)
    _, data = made(photos[:300], tmp_path, wrong=30)
    assert len(data["held"]["shown"]) == 50
    assert len(data["held"]["truth"]) == len(data["held"]["confidence"]) == 300
