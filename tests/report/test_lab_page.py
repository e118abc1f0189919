"""The page of the lab in a real browser."""

import re

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
from page_waiting import wait_until

from vertebra.errors import VertebraError
from vertebra.lab import run_all
from vertebra.lab.experiment import Verdict
from vertebra.lab.page import page
from vertebra.lab.translation import Translation

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
HOSTILE = '<script>alert(1)</script> "quoted" & {{ 7 * 7 }} \u202e'
_made = {}


@pytest.fixture
def lab(experiments, tmp_path):
    """Pages of four experiments that ran and one that did not: `lab(language)`."""

    def fail(setup):
        raise VertebraError(HOSTILE)

    experiments(
        alpha={"family": "VGG"},
        beta={"family": "ResNet", "verdict": Verdict.FAILS},
        gamma={"measure": fail},
        delta={"family": "ResNet", "verdict": Verdict.IN_PART, "title": HOSTILE, "caption": f"{HOSTILE}."},
        omega={"family": "VGG", "verdict": Verdict.OPEN, "rule": HOSTILE},
    )

    def make(language="en"):
        if language not in _made:  # drawing takes longer than a browser
            _made[language] = page(list(run_all()), Translation(language))
        path = tmp_path / "index.html"
        path.write_text(_made[language], encoding="utf-8")
        return path

    return make


@pytest.fixture
def opened(visit, lab):
    """Open the page, at once or at an experiment; the address with its hash asks for the same one file."""

    def open_page(language="en", name="", **options):
        shown = visit(lab(language), **options)
        if name:
            shown.evaluate("name => { location.hash = name }", name)
            wait_until(shown, "name => !document.getElementById(name).hidden", arg=name)
        return shown

    return open_page


def shown_sections(shown):
    return shown.locator(".experiment:visible").evaluate_all("all => all.map((each) => each.id)")


SHOWN = """names => names.join() === [...document.querySelectorAll(".experiment")]
  .filter((each) => !each.hidden).map((each) => each.id).join()"""


def follow(shown, selector, section):
    """Click on a link and wait for its section: the page learns of its new address a moment later."""
    shown.click(selector)
    wait_until(shown, "id => document.activeElement.id === `h-${id}`", arg=section)


def test_it_is_accessible_as_a_table_and_with_an_experiment(opened, sound):
    shown = opened(viewport=WIDE)
    assert shown.locator("#verdict-table tbody tr").count() == 5 and shown_sections(shown) == []
    sound(shown)
    follow(shown, "#verdict-table a >> text=delta", "delta")
    assert shown_sections(shown) == ["delta"]
    sound(shown)
    assert HOSTILE[:25] in shown.locator("#delta .plot desc").text_content()
    assert shown.locator("script").count() == 2 and "{{ 7 * 7 }}" in shown.inner_text("#delta")


def test_a_phone_and_japanese(opened, sound):
    shown = opened("ja", "beta", viewport=PHONE)
    sound(shown)
    assert shown.evaluate("document.documentElement.lang") == "ja"
    assert "betaは大きい。" in shown.inner_text("#beta") and "成り立たない" in shown.inner_text("#beta")


def test_filters_and_leafing(opened):
    shown = opened(viewport=WIDE)
    assert "5 of 5" in shown.inner_text("#shown")
    shown.select_option("#by-family", "ResNet")
    rows = "#verdict-table tbody tr:visible"
    assert shown.locator(rows).count() == 2 and "2 of 5" in shown.inner_text("#shown")
    shown.evaluate("document.activeElement.blur()")
    for key, names in (("ArrowRight", ["beta"]), ("ArrowRight", ["delta"]), ("ArrowRight", ["delta"]),
                       ("ArrowLeft", ["beta"]), ("Escape", [])):  # fmt: skip
        shown.keyboard.press(key)
        wait_until(shown, SHOWN, arg=names)
        assert shown_sections(shown) == names, key
    shown.select_option("#by-family", "")
    shown.select_option("#by-verdict", "failed")
    assert shown.locator(rows).count() == 1
    shown.select_option("#by-verdict", "")
    follow(shown, "#verdict-table a >> text=beta", "beta")
    assert shown.title().startswith("beta")
    follow(shown, "#beta a[rel=next]", "delta")
    assert shown_sections(shown) == ["delta"], "what has no section is skipped"
    shown.go_back()
    wait_until(shown, "!document.getElementById('beta').hidden")
    assert shown_sections(shown) == ["beta"]


def test_without_scripts_all_sections_are_there(opened):
    shown = opened(java_script_enabled=False)
    assert shown_sections(shown) == ["alpha", "beta", "delta", "omega"]
    assert not shown.locator("#filters").is_visible()
    assert shown.locator("#alpha .plot text").first.is_visible()


def test_pictures_keep_their_colours_under_the_policy(opened):
    shown = opened(name="alpha")
    fills = shown.locator("#alpha .plot path").evaluate_all("all => all.map((each) => getComputedStyle(each).fill)")
    assert "rgb(31, 119, 180)" in fills, "matplotlib's first colour"
    assert shown.locator("#alpha .plot text").first.evaluate("node => getComputedStyle(node).fontSize") != "16px"


def test_what_a_section_says(lab):
    text = lab().read_text(encoding="utf-8")
    parts = ["The article says (l.7)", "alpha is large.", "It was counted.", "Holds if it is.", "0.0678 %", "a count"]
    parts += ["0.0500 to 0.0900 %", "vertebra lab run alpha", '<span class="agrees">agrees</span>', "scikit-learn"]
    for part in [*parts, 'href="01-alpha.png"']:
        assert part in text, part
    assert "<script>alert" not in text and text.count("<script") == 2
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) > 80, "of four pictures, too"
