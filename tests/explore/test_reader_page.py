"""A reader of the page finds where the answer comes from; a broken panel leaves the others."""

import math
import re
from copy import deepcopy

import pytest
import torch
from page_waiting import wait_until

from vertebra.explore.document import Options, build_document
from vertebra.explore.observation import build_structure, observe
from vertebra.explore.photo import read_photo
from vertebra.explore.subject import Subject, network_input
from vertebra.preprocessing import Preprocessing

SIDE = 64
HEIGHT = 900
CLASSES = ("cat", "dog", "fox", "bat", "owl")


@pytest.fixture(scope="module")
def seen(noise, tiny_with_values):
    """A document; from torch: the last map (C, H, W), the best class and the channels' contributions to it."""
    network = tiny_with_values(num_classes=len(CLASSES))
    subject = Subject("tiny", network, Preprocessing(SIDE), CLASSES, "", False)
    photo = read_photo(noise(SIDE, SIDE), subject.preprocessing)
    document = build_document([observe(build_structure(subject), photo)], Options())
    with torch.no_grad():
        pixels = network_input(subject, photo.pixels)
        maps, logits = network.features(pixels)[0], network(pixels)[0]
        target = int(logits.argmax())
        contributions = network.classifier[-1].weight[target] * maps.mean((1, 2))
    return document, maps, target, contributions


@pytest.fixture
def open_page(show):
    def open_page(document):
        page = show(document, width=1300, height=HEIGHT)
        page.get_by_role("heading", name="Predicted classes").wait_for()
        return page

    return open_page


def number(text):
    return float(text.replace("−", "-").replace("= ", ""))


def in_sight(locator):
    box = locator.bounding_box()
    return 0 <= box["y"] < HEIGHT


def settled(page, locator):
    """It may be scrolled to in the next frame."""
    wait_until(page, "top => Math.abs(top.getBoundingClientRect().top - 100) < 50", arg=locator.element_handle())


def test_from_the_answer_to_the_makings_of_one_value_in_two_clicks(open_page, seen):
    document, maps, target, contributions = seen
    page = open_page(document)
    best = int(contributions.argmax())

    page.get_by_role("button", name=re.compile(r"channel \d+ of ")).click()
    title = page.get_by_role("heading", name=f"Channel {best}", exact=True)
    settled(page, page.get_by_role("heading", name="Feature maps"))
    assert in_sight(title)
    figures = page.locator(".map-figures div").filter(has_text=f"Contribution to the logit of “{CLASSES[target]}”")
    assert number(figures.locator("dd").inner_text()) == pytest.approx(float(contributions[best]), rel=5e-3)

    page.get_by_role("button", name="One value worked out").click()
    heading = page.get_by_role("heading", name="One value worked out")
    settled(page, heading)
    assert in_sight(heading)
    panel = page.locator("section").filter(has=heading).last
    channel, y, x = map(int, re.search(r"Channel (\d+), row (\d+), column (\d+)", panel.inner_text()).groups())
    assert channel == best
    last = panel.get_by_role("row").last.get_by_role("cell")
    assert number(last.nth(1).inner_text()) == pytest.approx(float(maps[best, y, x]), abs=1e-4)


def test_the_answer_leads_to_the_worked_value_at_once(open_page, seen):
    document, *_ = seen
    page = open_page(document)
    page.get_by_role("button", name="one of its values worked out").click()
    settled(page, page.get_by_role("heading", name="One value worked out"))
    # Of another class another channel is the strongest, of which no value is worked out.
    page.evaluate("scrollTo(0, 0)")
    page.locator("[data-class]").nth(1).click()
    assert page.get_by_role("button", name="one of its values worked out").count() == 0


def test_products_can_be_checked_with_a_calculator(open_page, seen):
    document, *_ = seen
    page = open_page(document)
    rows = page.locator(".worked-terms tbody tr")
    for row in rows.all():
        value, weight, product = (number(text.replace("× ", "")) for text in row.locator(".number").all_inner_texts())
        assert value * weight == pytest.approx(product, rel=6e-6)
    formula = page.locator(".worked-formula", has_text="√").first.inner_text()
    result = page.locator("tr", has_text="√").locator(".number").first.inner_text()
    python = formula.translate({ord("−"): "-", ord("×"): "*", ord("√"): "sqrt"})
    assert eval(python, {"sqrt": math.sqrt}) == pytest.approx(number(result), rel=1e-5, abs=1e-6)


def test_another_part_is_shown_at_the_panel_that_is_read(open_page, seen):
    document, *_ = seen
    page = open_page(document)
    page.get_by_role("button", name="Receptive field").click()
    settled(page, page.get_by_role("heading", name="Receptive field"))
    first = document["networks"][0]["parts"][0]
    page.get_by_role("treeitem").first.click()
    wait_until(page, "name => document.querySelector('.part-name').innerText.startsWith(name)", arg=first["name"])
    settled(page, page.get_by_role("heading", name="Receptive field"))
    assert in_sight(page.get_by_role("heading", name="Receptive field"))


def test_a_panel_that_breaks_is_a_sentence_and_the_others_stay(open_page, seen):
    document = deepcopy(seen[0])
    view = document["views"][0]
    for each in view["parts"].values():
        if "worked" in each:
            each["worked"] = [{"layer": "x", "cell": [0, 0, 0]}]
    page = open_page(document)
    broken = page.get_by_text("This cannot be shown")
    assert broken.count() == 1
    assert page.get_by_role("heading", name="Feature maps").count() == 1
    assert page.get_by_role("treeitem").count() > 2
    page.get_by_role("button", name="日本語").click()
    assert page.get_by_text("ここは表示できない").count() == 1
