"""The Japanese catalogues of the book and the guides: complete, with the English text's numbers, in standard terms.

`make docs` tells which texts of the pages have no translation; here is what can be wrong in those that have one.
"""

import re
from collections import Counter
from pathlib import Path

import pytest
from babel.messages.pofile import read_po
from japanese_terms import faults

DOCS = Path(__file__).parents[2] / "docs"
CATALOGUES = sorted((DOCS / "locale" / "ja" / "LC_MESSAGES").rglob("*.po"))
ROLE = re.compile(r"\{\w+\}`[^`]*`")
NOT_PROSE = re.compile(r"\{\w+\}`[^`]*`|`[^`]*`|\]\([^)]*\)|<[^>]*>|\$[^$]+\$|\*\*|!\[|\[|^#+ |^\* ")


def messages(path):
    with path.open("rb") as file:
        return [message for message in read_po(file) if message.id]


def wrong(message, name=""):
    """What is wrong in a translation."""
    english, japanese = message.id, message.string
    if message.fuzzy:
        yield "fuzzy"
    if not japanese:
        return
    if Counter(ROLE.findall(english)) != Counter(ROLE.findall(japanese)):
        yield f"other numbers: {ROLE.findall(english)}, {ROLE.findall(japanese)}"
    if english.startswith("![") != japanese.startswith("!["):
        yield "a picture and a text"
    for phrase in re.findall(r"(?<!\*)\*(?![*\s])([^*]+)\*(?!\*)", ROLE.sub("", japanese).replace("**", "")):
        if re.search("[ぁ-んァ-ヶ一-龠]", phrase):
            yield f"*{phrase}*: Japanese letters have no italics, **so**"
    yield from faults(NOT_PROSE.sub("", japanese))


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_translations(path):
    found = [f"{message.id[:60]}: {fault}" for message in messages(path) for fault in wrong(message)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_nothing_is_left_in_english(path, docs_module):
    has_words = docs_module("translated_pages").has_words
    left = [message.id for message in messages(path) if not message.string and has_words(message.id)]
    assert not left


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_catalogues_are_well_formed(path):
    """Babel reads the rest of a damaged one and drops or joins texts without a word."""
    assert malformed(path.read_text(encoding="utf-8")) == []


def malformed(text):
    """The lines that are neither a comment nor a quoted text."""
    line_of_one = re.compile(r'(?:#.*|(?:(?:msgid|msgstr) )?"(?:[^"\\]|\\.)*")?')
    return [f"{number}: {line}" for number, line in enumerate(text.split("\n"), 1) if not line_of_one.fullmatch(line)]


@pytest.mark.parametrize(
    "line", ['msgstr "a" b"', 'msgstr "a', "a", 'msgtsr "a"', "<<<<<<< HEAD", 'msgstr "a" "b"', '"a\\"']
)
def test_what_is_malformed_is_found(line):
    assert malformed(f'#, fuzzy\nmsgid ""\n"a \\" b"\n{line}\n') == [f"4: {line}"]


def test_every_page_has_its_catalogue():
    pages = {
        page.relative_to(DOCS).with_suffix("") for folder in ("book", "guides") for page in (DOCS / folder).glob("*.md")
    }
    root = DOCS / "locale" / "ja" / "LC_MESSAGES"
    assert {path.relative_to(root).with_suffix("") for path in CATALOGUES} == pages | {Path("index"), Path("sphinx")}


def test_headings_that_chapters_share_are_translated_alike():
    """Also those of the same section under another name: "The paper's table", "The table of the paper"."""
    alike = {
        "idea": "考え方",
        "tables? of the paper|paper's tables?": "論文の表",
        "walk through the source": "ソースコードを読む",
        "code departs from the paper": "論文との違い",
        "article leaves out": "記事に書かれていないこと",
        "^(?:The )?[Ee]xperiments$|What we measured": "実験",
        "^Exercises$": "演習",
        "^Sources$": "出典",
    }
    found = []
    for page in (DOCS / "book").glob("*.md"):
        headings = set(re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE))
        path = DOCS / "locale" / "ja" / "LC_MESSAGES" / "book" / f"{page.stem}.po"
        for message in messages(path):
            for pattern, japanese in alike.items():
                if message.id in headings and re.search(pattern, message.id) and message.string != japanese:
                    found.append(f"{page.stem}: {message.id}: {message.string}, elsewhere {japanese}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("english", "japanese"),
    [
        ("{n}`vgg16.parameters` of them", "そのうちの{n}`vgg16.macs`"),
        ("{n}`vgg16.parameters` of them", "そのうちの138,357,544"),
        ("Max pooling", "マックスプーリング"),
        ("It is cheap.", "安いです。"),
        ("A depthwise convolution", "depthwise畳み込み"),
        ("![The network](figures/x.svg)", "ネットワーク"),
        ("becomes *smaller*", "*小さく*なる"),
    ],
)
def test_what_is_wrong_is_found(english, japanese):
    from babel.messages.catalog import Message

    assert list(wrong(Message(english, japanese)))
