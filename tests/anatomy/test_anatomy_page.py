"""The page in a real browser without a network, the picture, and what a notebook shows."""

import html
import json
import re

import pytest
from PIL import Image
from torch import nn

import vertebra
from vertebra.anatomy import analysis
from vertebra.anatomy.roofline import Calibration, Rate
from vertebra.units import count, duration

HERE = Calibration(
    "onnxruntime",
    {"cpu": "a cpu", "threads": 2},
    {"1×1 conv": Rate(0.01, 0.01, 0.2, 0.1), "concat": Rate(0, 0, 0, 0.1), "elementwise": Rate(0.001, 0, 0, 0.3)},
    between=0.0,
    seconds=1.0,
    noise=0.0,
    others=0.0,
)


@pytest.fixture(scope="module")
def anatomy():
    return vertebra.anatomy("mobilenet_v2")


@pytest.fixture(scope="module")
def file(anatomy, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "mobilenet_v2.html"
    training = [anatomy.training_memory()]
    path.write_text(anatomy.to_html(latency=anatomy.latency(HERE), training=training), encoding="utf-8")
    return path


def test_nothing_is_loaded_from_elsewhere(file):
    text = file.read_text("utf-8")
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_it_shows_what_the_anatomy_says(offline_page, file, anatomy):
    page = offline_page(file)
    assert page.title() == "mobilenet_v2 – anatomy"
    assert page.inner_text("h1") == "mobilenet_v2"
    assert page.inner_text(".verdict") == anatomy.verdict(anatomy.latency(HERE))
    tiles = page.inner_text(".tiles")
    for text in (count(anatomy.parameters), count(anatomy.macs), duration(anatomy.latency(HERE).total_ms)):
        assert text in tiles
    names = page.locator(".stages > li > button .name").all_inner_texts()
    assert [name.removeprefix("▸ ") for name in names] == [stage.name for stage in anatomy.stages]


def test_it_unfolds_by_mouse(offline_page, file):
    page = offline_page(file)
    stage = page.locator(".stages > li").nth(2)
    block = stage.locator(".blocks > li").first
    assert not block.is_visible()
    stage.locator("> button").click()
    assert block.is_visible()
    leaf = block.locator(".layers > li").first
    assert not leaf.is_visible()
    block.locator("> button").click()
    assert leaf.is_visible()
    assert "conv.0.0" in leaf.inner_text()
    stage.locator("> button").click()
    assert not block.is_visible()
    page.click("#unfold")
    assert page.locator(".leaf").last.is_visible()
    page.click("#unfold")
    assert page.locator(".stages button[aria-expanded=true]").count() == 0


def test_it_unfolds_by_keyboard(offline_page, file):
    page = offline_page(file)
    page.locator(".stages button").first.focus()
    focused = "document.activeElement.querySelector('.name').textContent"
    for key, name in [
        ("ArrowDown", "stage1"),
        ("ArrowDown", "stage2"),
        ("ArrowRight", "stage2"),
        ("ArrowDown", "features.2"),
        ("Enter", "features.2"),
        ("ArrowDown", "conv.0.0"),
        ("ArrowLeft", "features.2"),
        ("ArrowLeft", "features.2"),
        ("ArrowDown", "features.3"),
        ("ArrowUp", "features.2"),
    ]:
        page.keyboard.press(key)
        assert page.evaluate(focused) == name, key
    assert page.locator(".leaf:visible").count() == 0, "folded again"
    assert page.locator("#tip").is_visible(), "the focus shows the numbers too"
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def test_hovering_gives_numbers(offline_page, file, anatomy):
    page = offline_page(file)
    page.locator(".stages > li > button").nth(1).hover()
    stage = anatomy.stages[1]
    text = page.inner_text("#tip")
    assert text.startswith(stage.name)
    assert f"{count(stage.parameters)} · " in text
    assert f"{count(stage.macs)} · {stage.macs / anatomy.macs:.0%}".replace("%", " %") in text
    page.hover("h1")
    assert not page.locator("#tip").is_visible()


def test_colours_follow_the_choice(offline_page, file, anatomy):
    page = offline_page(file)
    button = page.locator(".stages > li > button").last
    assert "ms" in button.locator(".value").inner_text() or "µs" in button.locator(".value").inner_text()
    mix = "button => parseFloat(button.style.getPropertyValue('--mix'))"
    by_time = button.evaluate(mix)
    page.get_by_label("parameters", exact=True).check()
    assert button.locator(".value").inner_text() == count(anatomy.stages[-1].parameters)
    assert button.evaluate(mix) == 50, "the classifier has most parameters"
    assert by_time < 50
    assert button.evaluate("button => getComputedStyle(button).backgroundColor") != page.locator(
        "section"
    ).first.evaluate("section => getComputedStyle(section).backgroundColor")


def test_the_table_sorts(offline_page, file, anatomy):
    page = offline_page(file)
    names = "tbody tr td:nth-child(2)"
    order = [row.name for row in anatomy.layers]
    assert page.locator(names).all_inner_texts() == order
    page.get_by_role("button", name="parameters").click()
    largest = sorted(anatomy.layers, key=lambda row: -row.parameters)
    assert page.locator(names).first.inner_text() == largest[0].name
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("parameters")
    page.get_by_role("button", name="parameters").press("Enter")
    assert page.locator(names).last.inner_text() == largest[0].name
    page.get_by_role("button", name="time", exact=True).click()
    assert page.locator("tbody tr").last.locator("td").nth(8).inner_text() == "", "what is fused comes last"
    page.get_by_role("button", name="#").click()
    assert page.locator(names).all_inner_texts() == order


def test_the_roofline_has_a_point_for_each_kernel(offline_page, file, anatomy):
    page = offline_page(file)
    kernels = [kernel for kernel, _ in anatomy.latency(HERE).kernels if kernel.operations]
    points = page.locator(".point")
    assert points.count() == len(kernels)
    assert "1×1 conv: 100 GFLOP/s" in page.inner_html("#roofline svg")
    points.first.focus()
    page.keyboard.press("ArrowRight")
    assert "FLOPs/byte" in page.inner_text("#tip")
    assert points.nth(1).evaluate("point => point === document.activeElement")
    slope = page.locator("#roofline .note").inner_text()
    assert "10.0 GB/s" in slope


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(offline_page, file, scheme):
    page = offline_page(file, color_scheme=scheme)
    page.click("#unfold")
    contrast = """() => {
      const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
      const light = (colour) => {
        canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((c) => c / 255)
          .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
          .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
      };
      return Math.min(...[...document.querySelectorAll('.node .name, .node .value, .node .shape')].map((text) => {
        const pair = [light(getComputedStyle(text).color), light(getComputedStyle(text.parentElement).backgroundColor)];
        return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
      }));
    }"""
    assert page.evaluate(contrast) >= 4.5


def test_it_fits_a_phone(offline_page, file):
    page = offline_page(file, viewport={"width": 360, "height": 740})
    page.click("#unfold")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_it_prints(offline_page, file, anatomy):
    page = offline_page(file, color_scheme="dark")
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3, "the whole table, not what the screen shows of it"
    page.emulate_media(media="print")
    assert not page.locator(".controls").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(
        "document.querySelector('.scroll').scrollHeight <= document.querySelector('.scroll').clientHeight"
    )


class Odd(nn.Module):
    """Names that would be markup, and nothing that runs twice."""

    def __init__(self):
        super().__init__()
        self.add_module("</script><b>x", nn.Conv2d(3, 4, 3))

    def forward(self, x):
        return getattr(self, "</script><b>x")(x).relu()


def test_names_are_text(offline_page, tmp_path):
    path = tmp_path / "odd.html"
    path.write_text(vertebra.anatomy(Odd(), 16).to_html(), encoding="utf-8")
    page = offline_page(path)
    assert "</script><b>x" in page.inner_text("tbody")
    assert page.locator("b").count() == 0
    assert not page.locator("#roofline").is_visible(), "without times there is none"


def test_a_notebook_shows_the_page(offline_page, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "load_calibration", lambda executor: None)
    anatomy = vertebra.anatomy(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 16)
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><title>x</title><link rel=icon href='data:,'>{anatomy._repr_html_()}", "utf-8")
    frame = offline_page(path).frame_locator("iframe")
    assert frame.locator("h1").inner_text() == "Sequential"
    monkeypatch.setattr(analysis, "load_calibration", lambda executor: HERE)
    text = html.unescape(anatomy._repr_html_().partition('srcdoc="')[2])
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data[1])["latency"]["device"] == "here"


def test_a_picture_of_what_takes_no_time(tmp_path):
    anatomy = vertebra.anatomy(nn.Flatten(), 8)
    anatomy.to_png(tmp_path / "picture.png", latency=anatomy.latency("t4"))
    assert (tmp_path / "picture.png").stat().st_size > 1000
    assert anatomy.to_html(latency=anatomy.latency("t4"))


def test_the_pictures(anatomy, tmp_path):
    sizes = []
    for latency in (None, anatomy.latency(HERE), anatomy.latency("h100")):
        path = tmp_path / "picture.png"
        anatomy.to_png(path, latency=latency)
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20
            sizes.append(image.size)
    assert sizes[0][0] < sizes[1][0] == sizes[2][0], "a second panel where there are times"
