"""The classes of a data set beside those of a model."""

import base64
import io
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from vertebra.data import DataError
from vertebra.errors import UsageError

pytest.importorskip("torch")

from vertebra.train import evaluate


@pytest.fixture
def measure(tmp_path, write_model):
    """Evaluate a model of those classes on a folder with a photo of each label."""

    def measure(classes, *labels, **options):
        write_model(tmp_path / "model.onnx", classes=classes)
        for number, label in enumerate(labels):
            (tmp_path / "photos" / label).mkdir(parents=True)
            Image.new("RGB", (40, 40), (60 * number, 90, 120)).save(tmp_path / "photos" / label / "1.png")
        return evaluate(tmp_path / "model.onnx", tmp_path / "photos", **options)

    return measure


def test_names_in_another_unicode_form_are_matched(measure):
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    found = measure((nfd, "dog "), nfc, "dog")
    assert found.held.labels.tolist() == [0, 1]
    assert found.reading == ()


@pytest.mark.parametrize(
    ("classes", "label", "message"),
    [
        (
            ("Cat", "dog"),
            "cat",
            "the class 'cat' and the model's 'Cat' differ only in case or in how a number is written",
        ),
        (("1", "dog"), "1.0", "the class '1.0' and the model's '1' differ only in case"),
    ],
)
def test_names_that_may_be_one_or_two_are_refused(measure, classes, label, message):
    with pytest.raises(DataError) as caught:
        measure(classes, label, "dog")
    assert message in str(caught.value)
    assert f"pass it by with --ignore {label}." in str(caught.value)


def test_classes_that_the_model_does_not_know(measure):
    with pytest.raises(UsageError) as caught:
        measure(("cat", "dog"), "cats", "dog", "hen")
    assert "has 2 classes that" in str(caught.value)
    assert "such as 'cats'; it knows cat, dog. Did you mean 'cat'? Rename the folders, or leave their" in str(
        caught.value
    )


def test_classes_that_the_model_does_not_know_are_left_out(measure):
    found = measure(("cat", "dog"), "cats", "dog", "hen", allow_unseen=True)
    assert found.held.measures.n == 1
    assert found.held.labels.tolist() == [1]
    assert found.notes[0] == "Left out: 2 photos of classes that the model does not know: 'cats', 'hen'."
    assert found.to_dict()["notes"] == found.notes


def test_something_must_be_left(measure):
    with pytest.raises(UsageError, match=r"has 1 classes .* it knows cat, dog, a, b, e, …\.$"):
        measure(("cat", "dog", "a", "b", "e", "f"), "zebra", allow_unseen=True)


def test_folders_can_be_passed_by(measure):
    found = measure(("cat", "dog"), "dog", "hen", ignore=["hen"])
    assert found.held.measures.n == 1
    assert found.reading == ("Ignored, as asked: hen.",)


def test_two_classes_of_one_name_are_refused(measure):
    with pytest.raises(UsageError, match="more than one class named 'crane', so it cannot be told which one"):
        measure(("crane", "dog", "crane"), "crane", "dog")


def test_the_page_shows_photos_by_the_depth_that_was_said(tmp_path, write_model):
    write_model(tmp_path / "model.onnx", classes=("cat", "dog"))
    for label in ("cat", "dog"):  # one picture, so that one of them is a mistake
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.fromarray(np.full((40, 40), 3000, np.uint16)).save(tmp_path / "photos" / label / "1.png")
    evaluate(tmp_path / "model.onnx", tmp_path / "photos", bits=12).write(tmp_path / "page.html")
    shown = re.findall('base64,([^"]+)', (tmp_path / "page.html").read_text(encoding="utf-8"))
    greys = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))).mean() for each in shown]
    assert len(greys) == 2 and all(abs(grey - 3000 * 255 / 4095) < 2 for grey in greys)
