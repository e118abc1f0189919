"""Pointing at a cell draws its receptive field on the photo; pointing at the photo marks the cells that respond."""

import re

import numpy as np
import pytest
import tiny
import torch
from page_waiting import wait_until

from vertebra.card import Preprocessing
from vertebra.explore.document import build_document
from vertebra.explore.observation import build_structure, observe
from vertebra.explore.options import Options
from vertebra.explore.photo import read_photo
from vertebra.explore.subject import Subject
from vertebra.introspect import receptive_field_by_gradient

SIZE = 64
STAGE = "stage/stage3"


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny.TINY_BUILDERS["mobilenetv2"](num_classes=5).eval()


@pytest.fixture(scope="module")
def document(network, noise):
    subject = Subject("tiny", network, Preprocessing(SIZE), tuple("abcde"), "", True)
    photo = read_photo(noise(150, 90), subject.preprocessing)
    return build_document([observe(build_structure(subject), photo)], Options())


@pytest.fixture(scope="module")
def page(show, document):
    return show(document, f"#{STAGE}")


def part_of(document):
    return next(part for part in document["networks"][0]["parts"] if part["id"] == STAGE)


def drawn(page):
    box = page.locator(".field-panel .field-input .inside")
    left, top, width, height = (float(box.get_attribute(name)) for name in ("x", "y", "width", "height"))
    return int(top), int(left), int(top + height), int(left + width)


def by_gradient(network, document, cell):
    layer = part_of(document)["name"]
    modules = [stage.modules for stage in network.stages if stage.name == layer]
    found = receptive_field_by_gradient(network, SIZE, modules[0][-1], cell)
    return found.top, found.left, found.top + found.height, found.left + found.width


def test_a_cell_of_the_maps_draws_its_field(page, network, document):
    _, height, width = part_of(document)["shape"]
    for x, y in ((0, 0), (width - 1, 1)):
        frame = page.locator(".map-frame .map").first
        box = frame.bounding_box()
        frame.hover(position={"x": (x + 0.5) / width * box["width"], "y": (y + 0.5) / height * box["height"]})
        wait_until(
            page,
            "text => document.querySelector('.field-panel figcaption').textContent.includes(text)",
            arg=f"row {y}, column {x}",
        )
        assert drawn(page) == by_gradient(network, document, (y, x))
        assert page.locator(".field-panel .field-input .dashed").get_attribute("d")  # beyond the border


def test_a_pixel_marks_the_cells_that_respond(page, network, document):
    _, height, width = part_of(document)["shape"]
    page.locator(".field-beside .field-input").focus()
    for key in ("Shift+ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    text = page.locator(".field-panel figcaption").first.inner_text()
    y, x, count, of, top, bottom, left, right = map(int, re.findall(r"\d+", text.partition("\n")[0]))
    assert (y, x, of) == (SIZE // 2 + 2, SIZE // 2 + round(SIZE / 14), height * width)
    responding = set()
    for cell in np.ndindex(height, width):
        first, start, last, end = by_gradient(network, document, cell)
        if first <= y < last and start <= x < end:
            responding.add(cell)
    assert responding == {(i, j) for i in range(top, bottom + 1) for j in range(left, right + 1)}
    assert len(responding) == count
    page.keyboard.press("Escape")
    page.wait_for_selector(".field-panel .field-input .inside")


def test_the_photos_way_is_shown(page, document):
    photo = document["views"][0]["photo"]
    steps = page.locator(".photo-steps > li")
    texts = steps.all_inner_texts()
    assert "90 × 150 px" in texts[0]
    kept = (photo["crop"][2] - photo["crop"][0]) * (photo["crop"][3] - photo["crop"][1]) / (90 * 150)
    assert f"{100 * (1 - kept):.1f} %" in texts[0]
    assert "{} × {} px".format(*photo["resized"]) in texts[1]
    assert f"{SIZE} × {SIZE} px" in texts[2]
    assert f"{photo['channels'][2]['high']:.2f}" in texts[3]
    colours = page.locator(".photo-colours canvas").first
    values = colours.evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    assert (min(values), max(values), len(values)) == (0, 255, 4 * SIZE * SIZE)


def test_the_effective_field_is_shown_with_its_figures(page, document):
    seen = document["views"][0]["parts"][STAGE]
    text = page.locator(".fields figure").last.inner_text()
    side = seen["effective"]["side"]
    assert f"95.0 % of the gradient lies in a square of {side} × {side} px" in text
    assert "untrained" in text
    assert page.locator(".field-effective image").count() == 2
