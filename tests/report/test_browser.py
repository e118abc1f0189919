"""Reports and audits in a real browser."""

import re
from urllib.parse import unquote

import numpy as np
import pytest
from packed_photos import pack_tar
from page_waiting import wait_until

from vertebra.data import audit, open_dataset, read_image_info, write_page

pytest.importorskip("torch")
TEN = [f"class {letter}" for letter in "abcdefghij"]
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
CHOSEN = ".cell.chosen"


@pytest.fixture(scope="module")
def ten(report, tmp_path_factory):
    """Ten classes of pictures of 8 × 8."""
    from vertebra.report import line_chart

    curves = [line_chart("Training loss", "epoch", [2.0, 1.0, 0.7, 0.61], "Of each epoch.")]
    facts = {"model": "a network", "seed": "0"}
    return report(
        tmp_path_factory.mktemp("ten"), TEN, 12, curves=curves, seconds={"fitting": 3.0, "measuring": 61.0},
        facts=facts, versions={"vertebra": "1"}, hashes={"model.onnx": "ab" * 32},
        commands=[("Again:", "vertebra train --config run/settings.toml")],
    )  # fmt: skip


@pytest.fixture(scope="module")
def large(report, tmp_path_factory):
    """Two classes of photos that are more than a thumbnail."""
    return report(tmp_path_factory.mktemp("large"), ["cat", "dog"], 12, (300, 200))


@pytest.fixture(scope="module")
def hundred(report, tmp_path_factory):
    return report(tmp_path_factory.mktemp("hundred"), [f"kind {i}" for i in range(101)], 2)


@pytest.mark.parametrize(
    ("name", "viewport"),
    [
        ("large", PHONE),
        *[
            pytest.param(name, viewport, marks=pytest.mark.slow)
            for name in ("ten", "hundred", "large")
            for viewport in (WIDE, PHONE)
            if (name, viewport) != ("large", PHONE)
        ],
    ],
)
def test_it_is_accessible(visit, sound, request, name, viewport):
    page = visit(request.getfixturevalue(name), viewport=viewport)
    assert page.locator("#matrix .cell").count() > 2
    sound(page)


def test_it_says_what_was_measured(visit, ten):
    page = visit(ten)
    measures = ten.held.metrics
    tiles = page.locator(".intro .tiles").inner_text()
    for text in (f"{100 * measures.top1:.1f} %", f"{100 * measures.ece:.1f} %", f"{measures.n}"):
        assert text in tiles
    assert "Training loss" in page.inner_text("#training")
    assert "1 min 4 s" in page.inner_text("#training"), "together"
    assert "ab" * 32 in page.inner_text("#reproduce")
    assert page.locator("#classes tbody tr").count() == 10


def test_colours_follow_the_button(visit, ten):
    page = visit(ten, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    button = page.locator("#theme")
    assert button.get_attribute("aria-label") == "Colours: as the system"
    button.click()
    assert button.get_attribute("aria-label") == "Colours: light"
    assert page.evaluate(background) != dark
    page.reload()
    assert button.get_attribute("aria-label") == "Colours: light", "it is remembered"
    button.click()
    assert page.evaluate(background) == dark


def rows_of(page):
    return page.evaluate("[...document.querySelectorAll('#matrix .side title')].map((each) => each.textContent)")


def test_the_matrix_counts_sorts_and_shows_photos(visit, ten):
    page = visit(ten)
    confusion = np.array(ten.held.metrics.confusion)
    assert page.locator("#matrix .cell").count() == (confusion > 0).sum()
    assert rows_of(page) == TEN
    page.select_option("#matrix-order", "errors")
    wrong = confusion * (1 - np.eye(10, dtype=int))
    errors = wrong.sum(0) + wrong.sum(1)
    assert rows_of(page) == [TEN[i] for i in sorted(range(10), key=lambda i: (-errors[i], i))]
    page.select_option("#matrix-order", "clustered")
    assert sorted(rows_of(page)) == TEN
    page.check("#matrix-wrong")
    assert len(rows_of(page)) == (errors > 0).sum()
    true, predicted = next(zip(*np.nonzero(wrong), strict=True))
    cell = page.get_by_label(f"{TEN[true]} predicted as {TEN[predicted]}: {wrong[true, predicted]} photo")
    cell.click()
    assert "chosen" in cell.get_attribute("class")
    assert page.inner_text("#cell h3").startswith(f"True class {TEN[true]}, predicted {TEN[predicted]}")
    shown = page.locator("#cell .shot, #cell .files a")
    assert shown.count() == wrong[true, predicted]
    place = next(i for i, label in enumerate(ten.held.labels) if label == true and
                 ten.held.probabilities[i].argmax() == predicted)  # fmt: skip
    assert shown.first.get_attribute("href") == f"../photos/{true}/{ten.held.photos[place].path.name}"


def test_the_matrix_by_keyboard(visit, ten):
    page = visit(ten)
    page.locator("#matrix .cell[tabindex='0']").focus()
    label = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(label).startswith("class a predicted as class a: ")
    page.keyboard.press("ArrowRight")
    first = page.evaluate(label)
    assert first.startswith("class a predicted as class ") and "as class a:" not in first
    assert page.locator("#tip").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    page.keyboard.press("Enter")
    assert page.locator(CHOSEN).get_attribute("aria-label") == first
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(label).startswith("class a predicted as class a: "), "at the edge it stays"
    assert page.locator("#matrix .cell[tabindex='0']").count() == 1


def test_the_table_of_confusions_leads_to_the_photos(visit, ten):
    page = visit(ten)
    row = page.locator("#confused tbody tr").nth(1)
    true, predicted = row.locator("bdi").all_inner_texts()
    row.locator("button").click()
    assert page.inner_text("#cell h3").startswith(f"True class {true}, predicted {predicted}")
    assert page.evaluate("document.activeElement.tagName") == "H3"


def test_two_hundred_classes_have_legible_names(visit, report, tmp_path):
    page = visit(report(tmp_path, [f"a kind of animal, number {i}" for i in range(200)], 1))
    sizes = page.evaluate(
        "[...document.querySelectorAll('#matrix .side text:has(title)')].map((t) => t.getBoundingClientRect().height)"
    )
    assert len(sizes) == 200 and min(sizes) >= 10
    pitch = int(page.locator("#matrix").get_attribute("data-cell"))
    assert pitch >= 11, "rows do not overlap"
    assert page.evaluate("getComputedStyle(document.querySelector('#matrix')).overflowY") == "auto"
    before = page.locator("#matrix .corner").bounding_box()
    page.evaluate("document.querySelector('#matrix').scrollTo(500, 500)")
    assert page.locator("#matrix .corner").bounding_box() == before, "the names stay in view"
    page.click("#matrix-larger")
    assert int(page.locator("#matrix").get_attribute("data-cell")) > pitch


@pytest.mark.slow
def test_of_a_thousand_classes_those_with_the_most_errors_are_shown(visit, report, tmp_path):
    page = visit(report(tmp_path, [f"kind {i}" for i in range(1000)], 1))
    assert len(rows_of(page)) == 200
    assert "the 200 classes with the most errors, of 1,000" in page.inner_text("#matrix-tools")


def test_the_threshold_says_what_it_would_do(visit, ten):
    page = visit(ten)
    held = ten.held
    confidence, right = held.probabilities.max(1), held.probabilities.argmax(1) == held.labels
    own = held.rejections[-1].threshold
    assert f"{own:.3f}" in page.inner_text("#slider-own")
    for value in (0.0, 0.7, 0.99):
        page.fill("#slider-number", str(value))
        answered = confidence >= value
        assert page.inner_text("#try-coverage").startswith(f"{100 * answered.mean():.1f} %")
        assert page.inner_text("#try-precision").startswith(f"{100 * right[answered].mean():.1f} %")
        assert page.inner_text("#try-refused").split()[0] == str((~answered).sum())
        assert page.inner_text("#try-wrong").split()[0] == str((answered & ~right).sum())
        assert float(page.input_value("#slider")) == value
    refused = np.nonzero(confidence < 0.99)[0]
    first = refused[confidence[refused].argmax()]
    assert page.locator("#refused a").first.get_attribute("href").endswith(f"/{held.photos[first].path.name}")
    low = page.locator("#here-coverage").get_attribute("x1")
    page.fill("#slider", "0")
    wait_until(page, "() => document.getElementById('try-refused').firstChild.textContent === '0'")
    assert float(page.locator("#here-coverage").get_attribute("x1")) > float(low)
    page.click("#slider-own")
    assert page.inner_text("#try-refused").split()[0] == str((confidence < own).sum())


def test_small_pictures_are_enlarged_as_they_are(visit, ten):
    page = visit(ten)
    image = page.locator("#other-errors img").first
    assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [8, 8]
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    assert image.bounding_box()["height"] > 80
    page.locator("#other-errors .shot").first.click()
    shown = page.locator("#viewer-photo")
    assert shown.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    assert shown.bounding_box()["height"] > 300
    assert len(page.asked) == 1, "all of it is in the page"


def test_a_large_photo_by_keyboard(visit, sound, large):
    page = visit(large, viewport=WIDE)
    shot = page.locator("#other-errors .shot, #errors .shot").first
    shot.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "viewer-title"
    shown = page.locator("#viewer-photo")
    wait_until(page, "document.getElementById('viewer-photo').naturalWidth === 300")
    assert len(page.asked) == 2 and page.asked[1].endswith(".png"), "the photo's own file, and nothing else"
    sound(page)
    title = page.inner_text("#viewer-title")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#viewer-title") != title
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#viewer-title") == title
    for _ in range(8):  # the focus stays in the dialog, or leaves the page
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
        )
    page.keyboard.press("Escape")
    assert not shown.is_visible()
    assert shot.evaluate("shot => shot === document.activeElement"), "the focus is back where it was"


def test_a_photo_whose_file_is_gone_is_shown_from_the_page(browser, report, tmp_path):
    path = report(tmp_path, ["cat", "dog"], 6, (300, 200))
    for photo in (tmp_path / "photos").rglob("*.png"):
        photo.unlink()
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(path.as_uri())
    page.locator("#errors .shot").first.click()
    wait_until(page, "document.getElementById('viewer-photo').naturalWidth > 0")
    assert page.locator("#viewer-photo").get_attribute("src").startswith("data:image/")
    context.close()


def test_galleries_grow(visit, report, tmp_path):
    path = report(tmp_path, TEN, 30)
    page = visit(path, viewport=WIDE)
    page.fill("#slider-number", "1")
    assert page.locator("#refused .shot").count() == 24
    more = page.locator("#refused button")
    left = int(re.search(r"(\d+) photos", more.inner_text())[1])
    assert left == 300 - (path.held.probabilities.max(1) >= 1).sum() - 24
    more.click()
    assert page.locator("#refused .shot").count() == 48
    assert page.evaluate("[...document.querySelectorAll('#refused .shot')].indexOf(document.activeElement)") == 24


def test_classes_sort(visit, ten):
    page = visit(ten)
    names = "#classes tbody th"
    page.get_by_role("button", name="class", exact=True).click()
    assert page.locator(names).all_inner_texts() == TEN
    page.get_by_role("button", name="recall", exact=True).click()
    best = max(ten.held.metrics.classes, key=lambda c: c.recall).recall
    shown = page.locator("#classes tbody tr").first.locator("td").nth(1).inner_text()
    assert shown.startswith(f"{100 * best:.1f} %")
    assert page.locator("th[aria-sort]").inner_text() == "recall"
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="class", exact=True).click()
    page.get_by_role("button", name="class", exact=True).click()
    assert page.locator(names).all_inner_texts() == TEN[::-1]


def test_without_scripts_figures_and_links_are_there(visit, ten):
    page = visit(ten, java_script_enabled=False)
    assert "need JavaScript" in page.inner_text("noscript")
    assert page.locator("#classes tbody tr").count() == 10
    assert page.locator(".chart svg polyline").count() == 2
    assert not page.locator("#threshold").is_visible()


HOSTILE = [
    "<script>alert(1)</script>",
    "\"quoted\" & 'single' </title>",
    "two\nlines",
    "\u202egnp.exe",
    "{{ 7 * 7 }}",
    "</script><img src=x onerror=alert(2)>",
]


def test_hostile_class_names_are_text(visit, report, tmp_path):
    page = visit(report(tmp_path, HOSTILE, 6, notes=["<b>note</b>"], facts={"<i>": "<script>alert(3)</script>"}))
    shown = [name.replace("\n", "\\n").replace("\u202e", "\\u202e") for name in HOSTILE]
    assert sorted(rows_of(page)) == sorted(shown)
    text = page.locator("body").inner_text()
    for name in shown:
        assert name in text
    assert "<b>note</b>" in text
    assert page.locator("main img[src=x], main script, main b:has-text('note')").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_hostile_file_names_are_text_and_lead_to_their_files(visit, photograph, tmp_path):
    names = [
        "a\"b'c.png",
        "<img src=x onerror=alert(1)>.png",
        "javascript:alert(1).png",
        "50%25 off #1?.png",
        "line\nbreak.png",
        "\u202egnp.exe.png",
        "broken \udcff\udc80.png",
        "日本語 ü.png",
    ]
    for label in ("cat", "dog"):
        for number, name in enumerate(names):
            photograph(tmp_path / "data" / label / name, number, (16, 12))  # the same pictures under both labels
    dataset = open_dataset(tmp_path / "data")
    found = audit(dataset, read_image_info(dataset))
    assert len(found.duplicates_across_labels) == len(names)
    write_page(dataset, found, tmp_path / "pages" / "audit.html")
    page = visit(tmp_path / "pages" / "audit.html")
    links = page.locator(".shot").evaluate_all("all => all.map((each) => each.getAttribute('href'))")
    assert len(links) == 2 * len(names)
    for link in links:
        assert link.startswith("../data/")
        path = unquote(link, errors="surrogateescape")
        assert (tmp_path / "pages" / path).is_file(), link
        assert not re.search(r"[:?#<>\"'\s]", link)
    text = page.locator("body").inner_text()
    for part in ("<img src=x onerror=alert(1)>.png", "line\\nbreak.png", "\\u202egnp.exe.png", "broken \\udcff\\udc80"):
        assert part in text
    assert page.locator("main img").evaluate_all("all => all.every((each) => each.src.startsWith('data:'))")


def test_photos_in_shards_have_no_link_to_a_file(visit, photograph, tmp_path):
    """They are shown from the page: a link would lead to no file."""
    photos = [photograph(tmp_path / f"{number}.png", number, (16, 12)).read_bytes() for number in range(2)]
    entries = [(f"{label} {n}.png", photos[n], label) for label in ("cat", "dog") for n in range(2)]
    pack_tar(tmp_path / "data" / "x.tar", entries)
    dataset = open_dataset(tmp_path / "data")
    found = audit(dataset, read_image_info(dataset))
    write_page(dataset, found, tmp_path / "audit.html")
    page = visit(tmp_path / "audit.html")
    assert page.locator(".shot").count() == 4
    assert page.locator("main img").evaluate_all("all => all.every((each) => each.src.startsWith('data:'))")
    assert not [link for link in page.locator("a").evaluate_all("all => all.map((a) => a.href)") if ".tar" in link]
    assert "x.tar::cat 0.png" in page.locator("body").inner_text()


def test_the_audit_is_accessible(visit, sound, photograph, tmp_path):
    for label, count in (("cat", 20), ("dog", 3)):
        for number in range(count):
            photograph(tmp_path / "data" / label / f"{number}.png", number + 50 * len(label) * count, (60, 50))
    for label in ("cat", "dog"):
        photograph(tmp_path / "data" / label / "same.png", 7, (60, 50))
    (tmp_path / "data" / "cat" / "empty.png").write_bytes(b"")
    (tmp_path / "data" / "cat" / "notes.txt").write_text("x")
    dataset = open_dataset(tmp_path / "data")
    found = audit(dataset, read_image_info(dataset))
    write_page(dataset, found, tmp_path / "audit.html", command="vertebra audit data --html audit.html")
    page = visit(tmp_path / "audit.html", viewport=PHONE)
    text = page.locator("body").inner_text()
    for part in (
        "Same picture, different labels: 1", "empty.png", "is empty", "notes.txt", "dog (4)",
        "vertebra audit data --html audit.html", "1 photo cannot be used",
    ):  # fmt: skip
        assert part in text
    sound(page)
    page.locator(".group .shot").nth(1).click()
    assert page.inner_text("#viewer-title").endswith("same.png")
    page.click("#viewer-back")
    page.click("#viewer-close")
    assert not page.locator("#viewer").is_visible()
