"""The book's chapters: no number is typed, each claim has its home, each piece of code is one of the source's."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CHAPTERS = [page for page in sorted((DOCS / "book").glob("*.md")) if page.stem != "index"]

# A decimal, a thousands separator, a share, or a number with a unit.
MEASURED = re.compile(
    r"(?<![\w.])(?:\d+\.\d+(?!\.)|\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?\s?(?:%|percent|million|billion|ms\b|MB\b|GB\b|kB\b|"
    r"GMACs?\b|MMACs?\b|GFLOPs?\b|images/s|M\b|G\b))"
)
# What stands in code, in roles and in targets of links is not prose.
CODE = re.compile(
    r"^( *)(```+|:::+)\{(?!dropdown|note|tip|warning|admonition).*?^\1\2\s*$|^( *)```\w.*?^\3```\s*$", re.M | re.S
)
INLINE = re.compile(
    r"\b\d{4}\.\d{4,5}\b|\{\w+\}`[^`]*`|`[^`]*`|\]\([^)]*\)|<[^>]*>|\bPython 3\.\d+|\b[vV]\d\.\d\b|"
    r"§\s?[\d.]+|(?:[Ss]ection|Fig(?:ure|\.)|Table|表|図|節)\s?[\d.]+"
)


def prose(text):
    """A page's text without code, roles and targets."""
    return INLINE.sub(" ", CODE.sub("\n", text))


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_no_measured_number_is_typed(page):
    text = page.read_text(encoding="utf-8")
    found = [match[0] for match in MEASURED.finditer(prose(text))]
    places = [f"{page.name}:{number}: {line[:80]}" for number, line in enumerate(text.splitlines(), 1)
              if any(each in prose(line) for each in found)]  # fmt: skip
    assert not found, f"{found}: take it from its JSON with {{n}}:\n" + "\n".join(places)


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_no_formula_is_in_tex(page):
    assert "$" not in prose(page.read_text(encoding="utf-8")), "the pages are built without TeX: write α² · β"


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("It has 138.4 million parameters", True),
        ("138,357,544 of them", True),
        ("12 % of the time", True),
        ("in 35 ms", True),
        ("{n}`vgg16.parameters` of them", False),
        ("3×3, 224 × 224, 64 → 256, in 2015, ResNet-50", False),
        ("```python\nx = 0.5\n```", False),
        ("`lr=0.1`, section 3.3, Table 1", False),
        (":::{dropdown} Solution\n7.5 MB\n:::", True),
    ],
)
def test_what_a_typed_number_is(text, typed):
    assert bool(MEASURED.search(prose(text))) == typed


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_chapters_are_as_long_as_one_reads_at_a_time(page):
    text, _, _ = page.read_text(encoding="utf-8").partition("\n## Sources")
    text = prose(re.sub(r":::\{dropdown\}.*?^:::$|^\|[^\n]*$", "", text, flags=re.M | re.S))
    words = len(re.findall(r"\w[\w'’-]*", text))
    assert 1500 <= words <= 3000, f"{page.name} has {words} words without sources, tables and solutions"


def test_each_claim_has_one_home():
    claims = json.loads((DOCS.parent / "bench" / "results" / "lab.json").read_text(encoding="utf-8"))["results"]
    told = Counter()
    for page in CHAPTERS:
        told.update(re.findall(r"\{experiment\} ([\w-]+)", page.read_text(encoding="utf-8")))
    assert told == Counter(claims.keys())


def test_one_experiment_runs_in_the_build():
    runs = [page.stem for page in CHAPTERS if re.search(r"^:run:", page.read_text(encoding="utf-8"), re.M)]
    assert runs == ["vgg"]


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_chapters_have_exercises_with_solutions_and_sources(page):
    text = page.read_text(encoding="utf-8")
    assert text.count(":::{dropdown} Solution") >= 3
    assert re.search(r"^## Sources", text, re.M)


@pytest.mark.parametrize("page", CHAPTERS, ids=lambda page: page.stem)
def test_each_box_and_block_ends(page):
    """What is not closed takes the rest of the page into it, without a warning."""
    assert unclosed(page.read_text(encoding="utf-8")) == []


def unclosed(text):
    """The lines that open a block or box which no line closes."""
    opened = []
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r" *(`{3,}|:{3,})(.*)$", line):
            fence, info = found[1], found[2].strip()
            if opened and not info and fence == opened[-1][0]:
                opened.pop()
            elif not (opened and opened[-1][0].startswith("`")):
                opened.append((fence, number))
    return [f"{number}: {fence}" for fence, number in opened]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (":::{dropdown} Solution\nText.\n:::\n```python\nx\n```", []),
        ("Text.\n\n:::{dropdown} Solution\nText.", ["3: :::"]),
        ("````{note}\n```python\nx\n```\n````", []),
        ("```python\n:::\n", ["1: ```"]),
    ],
)
def test_what_does_not_end_is_found(text, lines):
    assert unclosed(text) == lines
