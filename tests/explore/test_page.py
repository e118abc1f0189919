"""The page of `explore` in a real browser: figure, search, keyboard, languages, addresses, two views."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from page_waiting import wait_until
from PIL import Image

from vertebra.anatomy import inspect
from vertebra.explore.document import build_document
from vertebra.explore.observation import build_structure, observe
from vertebra.explore.options import Options
from vertebra.explore.page import render_page, texts
from vertebra.explore.photo import read_photo
from vertebra.explore.subject import load_subject
from vertebra.models import create_model
from vertebra.preprocessing import Preprocessing

SIDE = 64
CLASSES = ("cat", "dog, wet", "<b>fox</b>", "bat", "owl")


def observed(name, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_model(name, num_classes=len(CLASSES))
    subject = load_subject(network, Preprocessing(crop_size=SIDE, resize_size=SIDE))
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, 90, 3), np.uint8)).save(buffer, "PNG")
    subject = replace(subject, name=name, classes=CLASSES, **changes)
    return observe(build_structure(subject), read_photo(buffer.getvalue(), subject.preprocessing))


@pytest.fixture(scope="module")
def resnet():
    return observed("resnet18", is_untrained=True)


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def files(resnet, tmp_path_factory, patch):
    """Pages by name: one network; two beside each other."""
    folder = tmp_path_factory.mktemp("explore")
    # What is shown of a part, besides its maps, is for other tests.
    patch.setattr("vertebra.explore.document.SECTIONS", {})
    inception = observed("googlenet", weights="a run", is_untrained=False)
    for name, views, notes in (("one", [resnet], []), ("two", [resnet, inception], [("page.absent", "</script>")])):
        document = build_document(views, Options())
        document["notes"] = [{"key": key, "values": {"network": value, "part": "x"}} for key, value in notes]
        (folder / f"{name}.html").write_text(render_page(document), encoding="utf-8")
    return folder


@pytest.fixture
def open_page(browser, files):
    """`open_page("one", "#stage/layer2", width=390)`; whatever the browser complains of makes the test fail."""
    wrong, contexts = [], []

    def open_page(name="one", address="", width=1300, height=1000, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
        page.goto((files / f"{name}.html").as_uri() + address)
        page.wait_for_selector("[role=treeitem]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def part(identity):
    return f'[data-part="{identity}"]'


def selected(page):
    return page.locator("[role=treeitem][aria-selected=true]").evaluate_all("all => all.map(e => e.dataset.part)")


def focused(page):
    return page.evaluate("document.activeElement.dataset.part ?? null")


def boxes(page):
    return page.locator("[role=treeitem]").evaluate_all("all => all.map(e => e.dataset.part)")


def test_it_says_untrained_and_the_classes(open_page, resnet):
    page = open_page()
    head = page.locator("header.head")
    assert head.get_by_text("untrained", exact=True).is_visible()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert head.get_by_text("untrained", exact=True).bounding_box()["y"] >= 0, "it stays in sight"
    best = CLASSES[resnet.target]
    assert page.locator(".figure-out").inner_text().startswith(best)
    assert page.locator("[data-class]").first.get_attribute("data-class") == str(resnet.target)


def test_the_figure_unfolds_down_to_operations(open_page, resnet):
    page = open_page()
    stages = [each.id for each in resnet.structure.parts.values() if each.level == "stage"]
    assert boxes(page) == stages
    for identity in ("stage/layer2", "block/layer2.0", "layer/layer2.0.conv1"):
        page.locator(part(identity)).locator(".twist").click()
    shown = boxes(page)
    assert "operation/layer2.0.bn1" in shown and "operation/layer2.0.bn2" not in shown
    sides = {name: page.locator(part(f"layer/layer2.0.{name}")).bounding_box() for name in ("conv1", "downsample.0")}
    assert sides["conv1"]["x"] + sides["conv1"]["width"] <= sides["downsample.0"]["x"], "the shortcut is beside"
    assert page.locator("svg.figure-lines").text_content().count("8 × 8 × 128") >= 3, "the shape on each arrow"
    page.locator(part("stage/layer2")).locator(".twist").first.click()
    assert boxes(page) == stages
    page.get_by_role("button", name="Unfold all").click()
    assert sorted(boxes(page)) == sorted(resnet.structure.parts)
    page.get_by_role("button", name="Fold all", exact=True).click()
    assert boxes(page) == stages


def test_no_box_lies_on_another(open_page):
    page = open_page("two")
    for button in page.get_by_role("button", name="Unfold all").all():
        button.click()
    crossing = """trees => trees.flatMap(tree => {
      const items = [...tree.children].map(e => [e.dataset.part, +e.ariaLevel, e.getBoundingClientRect()]);
      return items.flatMap(([a, level, p], i) => items.slice(i + 1)
        .filter(([, other, q]) => other === level && p.left < q.right - 1 && q.left < p.right - 1
                                  && p.top < q.bottom - 1 && q.top < p.bottom - 1)
        .map(([b]) => `${a} ${b}`));
    })"""
    assert page.locator("[role=tree]").evaluate_all(crossing) == []


def test_the_colours_are_the_figures_of_inspect(open_page, resnet):
    page = open_page()
    anatomy = inspect(resnet.structure.subject.network, SIDE)
    for cost in ("macs", "bytes", "parameters"):
        page.get_by_label("Colour by").select_option(cost)
        shares = {}
        for row in anatomy.rows:
            shares[row.stage] = shares.get(row.stage, 0) + getattr(row, cost) / getattr(anatomy, cost)
        for stage, share in shares.items():
            text = page.locator(part(f"stage/{stage}")).locator(".part-share").inner_text()
            assert text == ("< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"), (stage, cost)
        heat = "all => all.map(e => [e.dataset.part.slice(6), +e.style.getPropertyValue('--heat')])"
        most = max(shares.values())
        expected = {stage: (share / most) ** 0.5 for stage, share in shares.items()}
        assert dict(page.locator("[role=treeitem]").evaluate_all(heat)) == pytest.approx(expected)
        assert f"{100 * most:.1f} %" in page.locator(".figure .legend").inner_text()


def test_the_keyboard_goes_through_the_tree(open_page):
    page = open_page()
    page.locator(part("stage/layer4")).focus()
    page.keyboard.press("Home")
    assert focused(page) == "stage/stem"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert (focused(page), "block/layer1.0" in boxes(page)) == ("stage/layer1", True)
    page.keyboard.press("ArrowRight")
    assert focused(page) == "block/layer1.0"
    page.keyboard.press("Enter")
    assert selected(page) == ["block/layer1.0"]
    assert page.locator(".inspector").first.get_attribute("aria-label") == "Selected part: layer1.0"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert (focused(page), "block/layer1.0" in boxes(page)) == ("stage/layer1", False)
    page.keyboard.press("End")
    assert focused(page) == "stage/classifier"
    assert page.locator("[role=treeitem][tabindex='0']").count() == 1


def test_search_unfolds_and_selects(open_page):
    page = open_page()
    wanted = {
        "layer3.1": "block/layer3.1",
        "conv2": "layer/layer1.0.conv2",
        "shortcut": "layer/layer2.0.downsample.0",
        "BASICBLOCK": "block/layer1.0",
        "7×7": "stage/stem",
    }
    for text, found in wanted.items():
        page.keyboard.press("/")
        page.keyboard.type(text)
        page.keyboard.press("Enter")
        wait_until(page, "document.activeElement.dataset.part !== undefined")
        assert (selected(page), focused(page)) == ([found], found), text


def test_search_finds_classes_and_says_when_it_finds_nothing(open_page):
    page = open_page()
    page.get_by_role("combobox", name="Search").fill("fox")
    assert page.get_by_role("option").first.inner_text().startswith("<b>fox</b>")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.class") == "2"
    page.get_by_role("combobox", name="Search").fill("xyzzy")
    assert "Nothing found" in page.locator(".hits").inner_text()


def test_an_address_is_of_a_part_and_back_goes_back(open_page):
    page = open_page(address="#block/layer3.1:5")
    assert selected(page) == ["block/layer3.1"]
    page.locator(part("stage/layer1")).click()
    assert unquote(page.evaluate("location.hash")) == "#stage/layer1"
    page.locator(part("stage/stem")).click()
    page.go_back()
    wait_until(page, "location.hash === '#stage/layer1'")
    assert selected(page) == ["stage/layer1"]
    page.go_back()
    wait_until(page, "location.hash === '#block/layer3.1:5'")
    assert selected(page) == ["block/layer3.1"]


def test_a_broken_address_is_that_of_the_page(open_page):
    page = open_page()
    for address in ("#nothing/here", "#%E0%A4%A", "#:3", "#<img src=x onerror=alert(1)>"):
        page.evaluate("hash => { location.hash = hash }", address)
        page.reload()
        page.wait_for_selector("[role=treeitem]")
        assert selected(page) == ["stage/layer4"], address


def test_the_language_is_switched_and_kept(open_page):
    page = open_page()
    page.get_by_role("button", name="日本語").click()
    assert page.evaluate("document.documentElement.lang") == "ja"
    assert page.locator("header.head").get_by_text("未学習").is_visible()
    assert "予測クラス" in page.locator("main").inner_text()
    page.reload()
    page.wait_for_selector("[role=treeitem]")
    assert page.evaluate("document.documentElement.lang") == "ja"


def test_all_texts_are_in_both_languages():
    english, japanese = texts()["en"], texts()["ja"]
    assert english.keys() == japanese.keys()
    for key, text in english.items():
        names = [set(re.findall(r"\{(\w+)\}", each)) for each in (text, japanese[key])]
        assert names[0] == names[1], key


def test_two_networks_are_beside_each_other(open_page):
    page = open_page("two")
    assert page.locator("[role=tree]").count() == 2
    labels = [" ".join(each.split()) for each in page.locator(".inspector .view-label").all_inner_texts()]
    assert labels[0].startswith("A resnet18") and "untrained" in labels[0]
    assert labels[1].startswith("B googlenet") and "untrained" not in labels[1] and "a run" in labels[1]
    other = page.locator(".inspector").nth(1)
    assert "googlenet has no layer4." in other.inner_text() and other.get_by_role("heading", level=2).first.is_visible()
    assert selected(page) == ["stage/layer4", "stage/inception5"]  # its own last one stays in view
    page.locator(part("stage/stem")).last.click()
    assert selected(page) == ["stage/stem", "stage/stem"]
    left, right = (each.bounding_box() for each in page.locator(".inspector").all())
    assert left["x"] + left["width"] <= right["x"]
    page.locator(".notes summary").click()
    assert "</script> has no x." in page.locator(".notes").inner_text()


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone_all_is_in_one_column(open_page, width):
    page = open_page("two", width=width, height=800)
    for button in page.get_by_role("button", name="Unfold all").all():
        button.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    tops = [page.locator(each).first.bounding_box()["y"] for each in (".overview", ".figure", ".inspector")]
    assert tops == sorted(tops)
    page.locator(".figure summary").first.click()
    assert not page.locator("[role=tree]").first.is_visible()


@pytest.mark.parametrize(
    ("name", "address"),
    [("one", "#layer/layer2.0.conv1"), pytest.param("two", "#stage/stem", marks=pytest.mark.slow)],
)
def test_axe_finds_nothing(open_page, name, address):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(name, address, reduced_motion="reduce")
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        options = {"resultTypes": ["violations"]} | ({"runOnly": ["color-contrast"]} if theme == "dark" else {})
        found = axe.run(page, options=options).response["violations"]
        assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found] == [], theme


def test_a_page_with_a_hostile_name_is_a_page(browser, resnet, tmp_path):
    document = json.loads(json.dumps(build_document([resnet], Options())))
    document["networks"][0]["name"] = "</script><script>window.broken = 1</script>"
    path = tmp_path / "hostile.html"
    path.write_text(render_page(document), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("[role=treeitem]")
    assert page.evaluate("window.broken ?? null") is None
    assert "</script>" in page.locator("h1").inner_text()
    page.close()
