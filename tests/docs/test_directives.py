"""Pages with a fault: the build tells file, line and what is wrong. Pages whose JSON has changed are read again."""

import io
import os
import re

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*MystReferenceResolver.app")

FAULTS = {
    "{n}`vgg61.macs`": "ERROR: {n}`vgg61.macs`: 'vgg61' is undefined; nearest: 'vgg",
    "{n}`1 / 0`": "ERROR: {n}`1 / 0`: division by zero",
    "{n}`1e400`": "ERROR: {n}`1e400`: name 'inf' is not defined",
    '{n}`lab("vgg-parameters", "parameters") / 2`': "'Figure' and 'int'; of a figure one computes with its .value",
    "```{experiment} vgg-parameter\n```": "ERROR: there is no experiment 'vgg-parameter'; nearest: 'vgg-parameters'",
    "```{experiment} vgg-parameters\n:figures: x\n```": "ERROR: there is no figure of vgg-parameters 'x'",
    "```{fields} vertebra.card.Nothing\n```": "ERROR: fields: there is no vertebra.card.Nothing",
    "```{fields} vertebra.card.read\n```": "ERROR: fields: there is no vertebra.card.read",
    "```{fields} Card\n```": "ERROR: fields: there is no Card",
    "```{fields} vertebra.errors.UsageError\n```": "ERROR: fields: vertebra.errors.UsageError is no dataclass",
}


@pytest.fixture
def build(docs_module, tmp_path):
    """`build(page=text, …)`: what building these pages warns of, and the pages that were read."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    docs_module("number_role")  # and with it the folder of the extensions
    source, out = tmp_path / "an é", tmp_path / "out"
    source.mkdir()
    ours = ["number_role", "experiment_directive", "reference_directives", "translated_pages", "made_from"]
    usual = {"extensions": ["myst_parser", *ours], "html_theme": "basic"}

    def make(builder="html", settings=None, **pages):
        for name, text in pages.items():
            (source / f"{name}.md").write_text(f"# {name}\n\n{text}\n", encoding="utf-8")
        told, read = io.StringIO(), []
        with docutils_namespace():
            app = Sphinx(
                source, None, out, out / ".doctrees", builder, usual | (settings or {}), status=None, warning=told
            )
            app.connect("source-read", lambda app, page, text: read.append(page))
            app.build()
        return re.sub(r"\x1b\[[\d;]*m", "", told.getvalue()), read

    return make


def test_faults_are_told_with_their_place(build):
    told, _ = build("dummy", index="\n\n".join(FAULTS))
    lines = told.splitlines()
    place = 3
    for fault, message in FAULTS.items():
        assert any(f"index.md:{place}: " in line and message in line for line in lines), (fault, told)
        place += fault.count("\n") + 2
    assert len(lines) == len(FAULTS)


@pytest.mark.parametrize("damage", ["{", "[]", '{"results": {"x": {}}}'])
def test_damaged_results_are_told(build, docs_module, monkeypatch, tmp_path, damage):
    role = docs_module("number_role")
    (tmp_path / "lab.json").write_text(damage)
    monkeypatch.setattr(role, "RESULTS", tmp_path)
    monkeypatch.setattr(role, "DOCS", tmp_path / "docs")
    role.results.cache_clear()
    told, _ = build("dummy", index="```{experiment} vgg-parameters\n```")
    assert "index.md:3: ERROR: " in told and "lab.json" in told
    role.results.cache_clear()


def test_another_verdict_than_on_record_ends_the_build(build, docs_module, monkeypatch):
    from dataclasses import replace

    from vertebra import lab
    from vertebra.lab.experiment import Verdict

    kept = docs_module("number_role").results()["vgg-parameters"]
    other = next(verdict for verdict in Verdict if verdict != kept.verdict)
    monkeypatch.setattr(lab, "run", lambda name, fresh: replace(kept, verdict=other))
    told, _ = build("dummy", index="```{experiment} vgg-parameters\n:run:\n```")
    assert f"index.md:3: ERROR: vgg-parameters gives {str(other)!r} now, bench/results/lab.json has" in told
    assert f" {str(kept.verdict)!r}; python bench/lab.py" in told


def test_a_page_is_read_again_when_its_json_has_changed(build, docs_module, monkeypatch, tmp_path):
    made_from = docs_module("made_from")
    kept = tmp_path / "bench" / "results" / "speed.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    monkeypatch.setattr(made_from, "ROOT", tmp_path)
    monkeypatch.setattr(made_from, "digest", lambda files: "1")
    pages = {"index": "{n}`1 + 1`\n\n```{toctree}\nother\n```", "other": "Text."}
    assert build(**pages) == ("", ["index", "other"])
    assert build() == ("", [])
    later = kept.stat().st_mtime + 60
    os.utime(kept, (later, later))
    assert build() == ("", ["index"])
    monkeypatch.setattr(made_from, "digest", lambda files: "2")
    assert build() == ("", ["index", "other"])


def test_what_was_built_of_a_page_that_is_gone_is_removed(build, tmp_path):
    build(index="```{toctree}\nother\n```", other="Text.")
    assert (tmp_path / "out" / "other.html").is_file()
    (tmp_path / "an é" / "other.md").unlink()
    build(index="Text.")
    assert not (tmp_path / "out" / "other.html").is_file() and (tmp_path / "out" / "index.html").is_file()


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("{n}`vgg16.macs`", "docs/numbers/networks.json"),
        ('{n}`paper("vgg", "x")`', "docs/numbers/papers/vgg.json"),
        ('{n}`device("h100").bandwidth`', "src/vertebra/anatomy/devices.toml"),
        ("```{experiment} vgg-parameters", "bench/results/lab.json"),
        ("```{fields} vertebra.card.Card", "src/vertebra/card.py"),
        ("```{commands}", "src/vertebra/cli/_app.py"),
        ("```{http-api}", "src/vertebra/serve/app.py"),
    ],
)
def test_what_a_page_is_made_from(docs_module, text, file):
    made_from = docs_module("made_from")
    assert made_from.ROOT / file in made_from.files_of(text)
    assert (made_from.ROOT / file).is_file() and made_from.files_of("Text.") == set()


def test_links_of_a_translation_lead_where_those_of_its_text_do(build, tmp_path):
    """Two links to one page, which the translation has in another order."""
    catalogue = tmp_path / "an é" / "locale" / "ja" / "LC_MESSAGES" / "index.po"
    catalogue.parent.mkdir(parents=True)
    catalogue.write_text(
        'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\nmsgid "index"\nmsgstr "目次"\n\n'
        'msgid "See [first](other.md#a) and [second](other.md#b) of [it](other.md)."\n'
        'msgstr "[全体](other.md)の[二](other.md#b)と[一](other.md#a)を参照。"\n',
        encoding="utf-8",
    )
    settings = {"language": "ja", "locale_dirs": ["locale"], "myst_heading_anchors": 2}
    told, _ = build(
        index="See [first](other.md#a) and [second](other.md#b) of [it](other.md).\n\n```{toctree}\nother\n```",
        other="## a\n\n## b",
        settings=settings,
    )
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    links = dict(re.findall(r'href="(other.html[^"]*)"><span class="[^"]*">([一二全体]+)<', page))
    assert told == "" and links == {"other.html": "全体", "other.html#b": "二", "other.html#a": "一"}


def test_a_text_without_translation_is_told_with_its_place_in_the_catalogue(build, tmp_path):
    catalogue = tmp_path / "an é" / "locale" / "ja" / "LC_MESSAGES" / "index.po"
    catalogue.parent.mkdir(parents=True)
    head = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\nmsgid "index"\nmsgstr "目次"\n\n'
    messages = 'msgid "Empty text."\nmsgstr ""\n\n#, fuzzy\nmsgid "Fuzzy text."\nmsgstr "曖昧な文。"\n'
    catalogue.write_text(head + messages, encoding="utf-8")
    settings = {"language": "ja", "locale_dirs": ["locale"]}
    told, _ = build("dummy", index="Empty text.\n\nFuzzy text.\n\nNew text.", settings=settings)
    file = "docs/locale/ja/LC_MESSAGES/index.po"
    told = told.replace(str(tmp_path), "")
    assert f"index.md:3: WARNING: not translated: Empty text. ({file}:8 is empty)" in told
    assert f"index.md:5: WARNING: not translated: Fuzzy text. ({file}:12 is fuzzy)" in told
    assert f"index.md:7: WARNING: not translated: New text. ({file}: `make strings` puts it there)" in told


def test_a_link_of_a_translation_to_another_place_is_told(build, tmp_path):
    catalogue = tmp_path / "an é" / "locale" / "ja" / "LC_MESSAGES" / "index.po"
    catalogue.parent.mkdir(parents=True)
    head = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\nmsgid "index"\nmsgstr "目次"\n\n'
    catalogue.write_text(
        f'{head}msgid "See [it](index.md#index)."\nmsgstr "[これ](index.md#nowhere)を参照。"\n', encoding="utf-8"
    )
    settings = {"language": "ja", "locale_dirs": ["locale"], "myst_heading_anchors": 2}
    told, _ = build(index="See [it](index.md#index).", settings=settings)
    assert "index.md:3: WARNING: inconsistent" in told and "nowhere" in told
