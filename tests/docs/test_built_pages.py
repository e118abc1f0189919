"""The built documentation, opened from the file system in a browser without a network, in both languages and themes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LANGUAGES = ("en", "ja")
# One of each kind: front page, chapter, guide, manual, generated reference, search, index.
PAGES = (
    "index.html",
    "book/vgg.html",
    "guides/first_classifier.html",
    "lab.html",
    "reference/command_line.html",
    "reference/http.html",
    "search.html",
    "genindex.html",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with both editions, as `make docs` makes them; its name has a space and a letter outside ASCII."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed")
    folder = tmp_path_factory.mktemp("site") / "the docs é"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    for language in LANGUAGES:
        command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "docs"]
        done = subprocess.run([*command, "-D", f"language={language}", folder / language],
                              cwd=ROOT, env=environment, capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
    shutil.copy(ROOT / "docs" / "_templates" / "redirect.html", folder / "index.html")
    return folder


@pytest.fixture
def visit(offline_page, site):
    """`visit("en/index.html", …)`: a page that is open; it may ask for nothing outside the site, nor complain."""

    def open_page(path, **options):
        return offline_page(site / path, inside=site.as_uri(), seconds=20, **options)

    return open_page


def test_links(site, docs_module):
    assert docs_module("check_links").broken(site) == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("path", PAGES)
def test_the_switch_leads_to_the_same_page_in_the_other_language(visit, language, path):
    other = next(each for each in LANGUAGES if each != language)
    page = visit(f"{language}/{path}")
    assert page.evaluate("document.documentElement.lang") == language
    page.locator(f".language-switch a[hreflang={other}]").click()
    page.wait_for_url(f"**/{other}/{path}")
    assert page.evaluate("document.documentElement.lang") == other


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_front_page_is_in_the_language_of_the_browser(visit, language):
    page = visit("index.html", locale={"en": "en-GB", "ja": "ja-JP"}[language])
    page.wait_for_url(f"**/{language}/index.html")
    assert page.evaluate("document.documentElement.lang") == language


def test_what_the_theme_says_is_japanese_too(visit):
    page = visit("ja/book/vgg.html", viewport={"width": 1500, "height": 900})
    for words in ("このページの内容", "次へ", "前へ", "ページの先頭へ", "本文へ移動"):
        assert page.get_by_text(words, exact=True).count(), words


@pytest.mark.parametrize(
    ("language", "query", "found"),
    [("en", "receptive field", "book/how_to_read.html"), ("en", "bottleneck", "book/resnet.html"),
     ("ja", "畳み込み", "book/"), ("ja", "受容野", "book/"), ("ja", "ボトルネック", "book/resnet.html")],
)  # fmt: skip
def test_search(visit, language, query, found):
    page = visit(f"{language}/index.html")
    page.locator(".sidebar-search").fill(query)
    page.keyboard.press("Enter")
    results = page.locator(f"#search-results li a[href*='{found}']")
    results.first.wait_for()
    assert results.first.inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("path", ["index.html", "book/vgg.html", "reference/command_line.html"])
def test_axe_finds_nothing_serious(visit, language, path, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(f"{language}/{path}", color_scheme=theme)
    # Without `preload` axe asks for the style sheets again, which a page of the file system may not.
    found = axe.run(page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], [node["html"][:200] for node in each["nodes"][:5]]) for each in serious] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_page_scrolls_sideways_on_a_phone(visit, site, language):
    page = visit(f"{language}/index.html", viewport={"width": 390, "height": 800})
    wide = {}
    for path in sorted((site / language).rglob("*.html")):
        page.goto(path.as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > 390:
            wide[str(path.relative_to(site))] = width
    assert wide == {}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_printed_chapter_fits_the_sheet_and_has_its_solutions(visit, language):
    page = visit(f"{language}/book/vgg.html", viewport={"width": 794, "height": 1123})  # A4 at 96 pixels an inch
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    right = "Math.max(...[...document.querySelectorAll('article *')].map(each => each.getBoundingClientRect().right))"
    assert page.evaluate(right) <= 794
    solutions = page.locator("details.sd-dropdown .sd-summary-content")
    assert solutions.count() >= 3
    assert all(solutions.nth(place).is_visible() for place in range(solutions.count()))
