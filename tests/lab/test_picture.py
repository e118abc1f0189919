"""Pictures: text stays text, in both languages, and many stand in one page."""

import warnings
from dataclasses import replace
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("torch")
pytest.importorskip("sklearn")
from matplotlib.figure import Figure

from vertebra.lab import run
from vertebra.lab.inline_svg import inline_svg
from vertebra.lab.picture import _translate
from vertebra.lab.translation import Translation

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def result(experiments):
    experiments(alpha={})
    return run("alpha")


def texts(svg):
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_texts_are_text_and_the_file_is_the_same_each_time(result):
    svg = result.picture("svg")
    assert {"1. How large alpha is", "To the right is more.", "left", "right"} <= set(texts(svg))
    assert replace(result).picture("svg") == svg
    assert result.picture("png").startswith(b"\x89PNG")


def test_japanese_texts_of_titles_and_ticks(result, monkeypatch):
    words = {"How large {} is": "{}の大きさ", "To the right is more.": "右ほど大きい。", "left": "左", "right": "右"}
    monkeypatch.setattr(Translation, "_find", lambda self, text: words.get(text) if self.language == "ja" else None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = set(texts(result.picture("svg", "ja")))
    assert {"右ほど大きい。", "左", "右"} <= found and "left" not in found
    assert "left" in texts(result.picture("svg"))


def test_ticks_that_were_set_are_translated_and_numbers_keep_their_form():
    canvas = Figure()
    axes = canvas.subplots()
    axes.set_yticks([0, 1], ["holds", "mine, holds"])
    axes.set_xlim(0, 2000)
    before = [label.get_text() for label in axes.get_xticklabels()]
    _translate(canvas, Translation("ja", ["mine"]))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["成り立つ", "mine、成り立つ"]
    assert [label.get_text() for label in axes.get_xticklabels()] == before


def test_of_the_users_networks_it_has_a_title_of_its_own(result):
    claim = replace(result.claim, networks_title="How large any is", networks_caption="More is more.")
    assert replace(result, claim=claim).title == result.claim.title
    of_networks = replace(result, claim=claim, settings={**result.settings, "models": ["mine"]})
    assert {"1. How large any is", "More is more."} <= set(texts(of_networks.picture("svg")))


def test_in_a_page_it_has_ids_of_its_own_and_no_styles(result):
    svg = result.picture("svg")
    first, second = (ElementTree.fromstring(inline_svg(svg, name, "A <title>", "What & how")) for name in ("a-", "b-"))
    ids = [{node.get("id") for node in tree.iter()} - {None} for tree in (first, second)]
    assert not ids[0] & ids[1] and all(name.startswith("a-") for name in ids[0])
    for node in first.iter():
        assert "style" not in node.attrib and node.tag not in (f"{SVG}style", f"{SVG}metadata", f"{SVG}script")
        for name, value in node.attrib.items():
            assert "xlink" not in name
            if value.startswith("#") and name == "href":
                assert value[1:] in ids[0]
            if value.startswith("url(#"):
                assert value[5:-1] in ids[0]
    assert first.get("role") == "img" and set(first.get("aria-labelledby").split()) <= ids[0]
    assert first[0].text == "A <title>" and first[1].text == "What & how"
    assert [node.get("font-size") for node in first.iter(f"{SVG}text")].count(None) == 0
    assert any(node.get("text-anchor") for node in first.iter(f"{SVG}text"))
    assert any(node.get("fill", "").startswith("#0") or node.get("fill") for node in first.iter(f"{SVG}path"))
