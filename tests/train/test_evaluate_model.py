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
from vertebra.imagenet import FORMER_NAMES, class_names

pytest.importorskip("torch")

import vertebra
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
    assert f"leave it out with --ignore {label}." in str(caught.value)


def test_classes_that_the_model_does_not_know(measure):
    with pytest.raises(UsageError) as caught:
        measure(("cat", "dog"), "cats", "dog", "hen")
    assert "has 2 classes that" in str(caught.value)
    assert "such as 'cats'; it knows cat, dog. Did you mean 'cat'? Rename the folders, or leave their" in str(
        caught.value
    )


def test_classes_that_the_model_does_not_know_are_left_out(measure):
    found = measure(("cat", "dog"), "cats", "dog", "hen", allow_unseen=True)
    assert found.held.metrics.n == 1
    assert found.held.labels.tolist() == [1]
    assert found.notes[0] == "Left out: 2 photos of classes that the model does not know: 'cats', 'hen'."
    assert found.to_dict()["notes"] == found.notes


def test_something_must_be_left(measure):
    with pytest.raises(UsageError, match=r"has 1 class that .* it knows cat, dog, a, b, e, …\.$"):
        measure(("cat", "dog", "a", "b", "e", "f"), "zebra", allow_unseen=True)


def test_folders_can_be_passed_by(measure):
    found = measure(("cat", "dog"), "dog", "hen", ignore=["hen"])
    assert found.held.metrics.n == 1
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


@pytest.fixture(scope="module")
def imagenet_model(write_model, tmp_path_factory):
    """A network of ImageNet's classes, by the names that torchvision had before, two of which stand there twice."""
    names = [FORMER_NAMES.get(index, name) for index, name in enumerate(class_names())]
    return write_model(tmp_path_factory.mktemp("imagenet") / "model.onnx", classes=names)


def labelled(folder, *labels):
    for number, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        Image.new("RGB", (40, 40), (60 * number, 90, 120)).save(folder / label / "1.png")
    return folder


def test_imagenets_classes_are_known_by_wnid(tmp_path, imagenet_model):
    found = evaluate(imagenet_model, labelled(tmp_path / "photos", "n01440764", "n02012849", "n03710721"))
    assert found.held.labels.tolist() == [0, 134, 639]
    assert found.to_dict()["labelled_by"] == "wnid"
    assert found.notes[0].startswith("ImageNet classes, labelled by wnid ('n01440764' is 'tench'), 3 of 1,000; each")
    assert "997 of 1,000 classes without a photo" in " ".join(found.notes)
    names = [entry.name for entry in found.held.metrics.classes]
    assert names[134] == "crane (n02012849)" and names[517] == "crane (n03126707)" and names[0] == "tench"


def test_imagenets_classes_and_others(tmp_path, imagenet_model):
    photos = labelled(tmp_path / "photos", "n01440764", "n01440765", "n02012849")
    with pytest.raises(
        UsageError, match=r"1 class that .* such as 'n01440765'; .* n01440765 is none of the 1,000 wnids"
    ):
        evaluate(imagenet_model, photos)
    found = evaluate(imagenet_model, photos, allow_unseen=True)
    assert found.held.labels.tolist() == [0, 134]
    assert "Left out: 1 photo of a class that the model does not know: 'n01440765'." in found.notes
    with pytest.raises(UsageError, match=r"labels its photos in 2 ways: by wnid \('n01440764'\) and by class name"):
        evaluate(imagenet_model, labelled(tmp_path / "mixed", "n01440764", "goldfish"))


def test_one_based_class_indices_are_noted(tmp_path, write_model):
    model = write_model(tmp_path / "model.onnx", classes=class_names())
    predictor = vertebra.load(model, engine="onnxruntime")
    rows = []
    for number, brightness in enumerate((255, 120, 60, 20)):
        path = tmp_path / f"{number}.png"
        noise = np.random.default_rng(number).random((40, 40, 3)) * brightness * np.roll([1, 0.5, 0], number)
        Image.fromarray(noise.astype(np.uint8)).save(path)
        rows.append((path.name, predictor.predict(path).predictions[0]["index"] + 1))
    assert len({index for _, index in rows}) > 1 and all(index < 1000 for _, index in rows)
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{name},{index}\n" for name, index in rows))
    notes = evaluate(model, tmp_path / "list.csv", engine="onnxruntime").to_dict()["notes"]
    assert (
        "With each class index one less top-1 would be 100.0 % instead of 0.0 %: these labels seem to be counted from "
        "1, and indices are from 0." in notes
    )


@pytest.mark.parametrize(
    ("folders", "note"),
    [
        (("train/cat", "valid/cat", "valid/dog"), "The val photos are measured, 2 of 3."),
        (("train/cat", "val/cat", "test/cat", "test/dog"), "The test photos are measured, 2 of 4."),
        (("train/cat", "train/dog"), "No photo is marked test or val, so all 2 are measured, also those marked train."),
        (("test/cat", "test/dog"), None),
        (("cat", "dog"), None),
    ],
)
def test_the_measured_split_is_noted(measure, folders, note):
    found = measure(("cat", "dog"), *folders)
    assert found.held.metrics.n == 2
    assert [each for each in found.to_dict()["notes"] if "measured" in each and "Only" not in each] == (
        [] if note is None else [note]
    )


def test_other_models_are_not_guessed_to_know_wnids(measure):
    with pytest.raises(UsageError, match="does not know, such as 'n01440764'"):
        measure(("tench", "goldfish"), "n01440764", "n01443537")


def test_of_other_models_labels_are_class_names(measure):
    assert measure(("cat", "dog"), "cat", "dog").to_dict()["labelled_by"] == "class name"
