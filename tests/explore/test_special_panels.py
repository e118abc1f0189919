"""The panels of gates, additions, branches, dense blocks, activations and evidence, in a browser."""

import numpy as np
import pytest
from page_waiting import wait_until

from vertebra.explore.document import build_document
from vertebra.explore.observation import build_structure, observe
from vertebra.explore.options import Options
from vertebra.explore.photo import read_photo
from vertebra.explore.subject import load_subject
from vertebra.preprocessing import Preprocessing

SIDE = 64


def is_error(message):
    """Not what Chromium advises a test that reads pixels back."""
    return message.type == "error"


@pytest.fixture(scope="module")
def opened(show, noise, tiny_with_values):
    """family → (page, document); each is opened once."""
    pages = {}

    def open_family(family):
        if family not in pages:
            subject = load_subject(tiny_with_values(family), Preprocessing(crop_size=SIDE, resize_size=SIDE))
            observation = observe(build_structure(subject), read_photo(noise(SIDE, SIDE), subject.preprocessing))
            document = build_document([observation], Options())
            pages[family] = show(document, width=1300, height=900, is_wrong=is_error), document
        return pages[family]

    return open_family


def number(text):
    return float(text.replace("−", "-").replace("+", ""))


def first_with(document, key):
    """The part that has the first entry of a section, and that entry."""
    for part, seen in document["views"][0]["parts"].items():
        if key in seen:
            return part, seen[key]
    raise AssertionError(f"no part has {key}")


def select(page, part, panel):
    page.evaluate("id => { location.hash = '#' + id }", part)
    found = page.locator(f".{panel}-panel")
    found.wait_for()
    return found


def test_gates_in_both_orders(opened):
    page, document = opened("efficientnet")
    part, (gate, *_) = first_with(document, "gates")
    panel = select(page, part, "gates")
    slider, said = panel.get_by_role("slider"), panel.locator("label .number")
    slider.fill("3")
    assert said.inner_text() == f"channel 3: × {gate['values'][3]:.4f}"
    panel.get_by_role("button", name="Sorted by size").click()
    slider.fill("0")
    assert said.inner_text().endswith(f"× {max(gate['values']):.4f}")
    bars = panel.locator(".plot-bars").get_attribute("d")
    assert bars.count("M") == len(gate["values"])


def test_terms_of_an_addition(opened):
    page, document = opened("resnet")
    part, (addition, *_) = first_with(document, "additions")
    panel = select(page, part, "additions")
    for place, term in enumerate(("skip", "branch", "sum")):
        shown = [number(text) for text in panel.locator(".term").nth(place).locator("b.number").all_inner_texts()]
        assert shown == pytest.approx([addition["norms"][term], addition["contributions"][term]], rel=6e-3)
    cells = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    wait_until(page, "document.querySelector('.term canvas').getContext('2d').getImageData(0, 0, 1, 1).data[3]")
    pixels = np.array(panel.locator(".term canvas").first.evaluate(cells)).reshape(-1, 4)
    assert len(np.unique(pixels, axis=0)) > 3  # a picture, not one colour


def test_branches_and_dense_sources(opened):
    page, document = opened("googlenet")
    part, (joined, *_) = first_with(document, "branches")
    terms = select(page, part, "branches").locator(".term")
    assert terms.locator("h4").all_inner_texts() == [branch["name"] for branch in joined["branches"]]
    page, document = opened("densenet")
    part, block = first_with(document, "dense")
    panel = select(page, part, "dense")
    assert panel.locator("rect.cell").count() == sum(len(reader["weights"]) for reader in block["readers"])
    panel.get_by_role("button", name="Contribution").click()
    box = panel.locator(".matrix svg").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    said = panel.locator(".readout").inner_text()
    assert number(said.rsplit(": ", 1)[1]) == pytest.approx(block["readers"][0]["contributions"][0], rel=6e-3)


def test_evidence_of_another_class(opened):
    page, document = opened("resnet")
    evidence = document["views"][0]["evidence"]
    panel = select(page, evidence["part"], "evidence")
    panel.locator("button").nth(1).click()
    shown = evidence["classes"][1]
    first = panel.locator(".channels li").first
    assert first.locator("span.number").first.inner_text() == f"channel {shown['for'][0][0]}"
    assert number(first.locator("span.number").last.inner_text()) == pytest.approx(shown["for"][0][1], rel=6e-3)
    assert panel.locator("canvas").get_attribute("width") == str(evidence["width"])
