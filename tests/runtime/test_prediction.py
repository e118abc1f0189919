"""What a result says of itself."""

import xml.etree.ElementTree as ElementTree

import pytest

from vertebra.runtime.prediction import Prediction
from vertebra.runtime.predictor import Predictor
from vertebra.synthetic_photos import synthetic_photos


def result(*names, **others):
    entries = [{"class": name, "index": index, "probability": 0.5 ** (index + 1)} for index, name in enumerate(names)]
    return Prediction("cat.jpg", entries, **others)


def test_the_best_class():
    found = result("tabby", "lynx")
    assert (found.label, found.probability) == ("tabby", 0.5)
    failed = Prediction("cat.jpg", error="cat.jpg is empty")
    assert failed.label is None and failed.probability is None


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (result("tabby", "lynx"), "<Prediction cat.jpg: tabby 50.0%, lynx 25.0%>"),
        (result("a", "b", "c", "d"), "<Prediction cat.jpg: a 50.0%, b 25.0%, c 12.5%, …>"),
        (result("tabby", unsure=True), "<Prediction cat.jpg: unsure: tabby 50.0%>"),
        (result("tabby", unsure=False), "<Prediction cat.jpg: tabby 50.0%>"),
        (Prediction("cat.jpg", error="cat.jpg is empty"), "<Prediction cat.jpg: error: cat.jpg is empty>"),
        (Prediction("a\nb\x1b.jpg", [{"class": "c\n", "index": 0, "probability": 1}]),
         "<Prediction a\\nb\\x1b.jpg: c\\n 100.0%>"),
    ],
)  # fmt: skip
def test_a_line_for_each(found, text):
    assert repr(found) == text
    assert repr([found]) == f"[{text}]"


def test_a_table_for_notebooks():
    found = result("<script>alert(1)</script>", "a & b", "c\x00d")
    found.path = "<img src=x onerror=alert(1)>.jpg"
    page = found._repr_html_()
    assert "<script" not in page and "<img" not in page
    table = ElementTree.fromstring(page)  # it is well formed, and says what it should
    assert table.findtext("caption") == "<img src=x onerror=alert(1)>.jpg"
    assert [[cell.text or "" for cell in row] for row in table.findall("tr")] == [
        ["<script>alert(1)</script>", "50.0%", ""],
        ["a & b", "25.0%", ""],
        ["c\\x00d", "12.5%", ""],
    ]
    widths = [bar.get("style").partition(";")[0] for bar in table.iter("div")]
    assert widths == ["width: 6.00em", "width: 3.00em", "width: 1.50em"]
    assert "unsure" not in page and "(unsure: none" in result("a", unsure=True)._repr_html_()
    assert "<td" in (failed := Prediction("a", error="a is <empty>")._repr_html_()) and "a is &lt;empty&gt;" in failed


def test_a_predictor_says_what_it_is(tiny_model, write_model, tmp_path):
    network = Predictor(tiny_model)
    assert repr(network) == f"<Predictor tiny: 3 classes (cat, dog, fish), 32 × 32 pixels; {tiny_model}>"
    assert network.classes == ["cat", "dog", "fish"]
    many = Predictor(write_model(tmp_path / "many.onnx", classes=[f"{n}\n" for n in range(1200)]))
    assert ": 1,200 classes (0\\n, 1\\n, 2\\n, …), " in repr(many)
    photo = synthetic_photos(1, 40)[0]
    assert network(photo, top=2, embed=True).predictions == network.predict(photo, top=2).predictions
    assert network(photo).label in network.classes


def test_classes_without_names_are_numbers(write_model, tmp_path):
    from dataclasses import replace

    card = replace(Predictor(write_model(tmp_path / "m.onnx")).card, classes=None).to_json()
    network = Predictor(write_model(tmp_path / "numbers.onnx", card=card))
    assert network.classes == ["0", "1", "2"] and ": classes without names, 32 × 32" in repr(network)
