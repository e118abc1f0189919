"""In the Japanese edition chapters and guides are translated in full: a text that is not is a warning, and ends it.

The other pages are in English in both editions, and say so. A translation's links lead to where those of its text do.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po
from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.i18n import Locale
from sphinx.util import logging
from sphinx.util.nodes import extract_messages

TRANSLATED = ("index", "book/", "guides/")
NOTICE = '<p class="only-english" lang="ja">このページは英語のみである。</p>'
_JAPANESE = re.compile("[ぁ-んァ-ヶ一-龠]")
_NO_WORDS = re.compile(r"\{\w+\}`[^`]*`|`[^`]*`")  # roles and code
logger = logging.getLogger(__name__)


def is_translated(page: str) -> bool:
    """Whether a page is one of those that are translated."""
    return page.startswith(TRANSLATED)


def has_words(message: str) -> bool:
    """Whether there is something to translate besides code, numbers and symbols."""
    return re.search(r"[A-Za-z]{2,}", _NO_WORDS.sub("", message)) is not None


def check(app: Sphinx, document: nodes.document) -> None:
    """Warn of each text of a page that its catalogue has not, or only as fuzzy."""
    page = app.env.current_document.docname
    if app.config.language == "en" or not is_translated(page):
        return
    path = Path(app.srcdir, "locale", app.config.language, "LC_MESSAGES", f"{page}.po")
    translations = catalogue(path) if path.is_file() else Catalog()
    for node, message in extract_messages(document):
        if _JAPANESE.search(message):  # Sphinx has put the translation of a picture in its place already
            continue
        found = translations.get(message)
        if has_words(message) and (found is None or not found.string or found.fuzzy):
            file = f"docs/locale/{app.config.language}/LC_MESSAGES/{page}.po"
            state = f"{file}: `make strings` puts it there" if found is None else f"{file}:{found.lineno}"
            state += "" if found is None else " is fuzzy" if found.fuzzy else " is empty"
            logger.warning("not translated: %s (%s)", message, state, location=node)


@cache
def catalogue(path: Path) -> Catalog:
    """A file of translations."""
    with path.open("rb") as file:
        return read_po(file)


def note(app: Sphinx, page: str, template: str, context: dict[str, Any], document: nodes.document | None) -> None:
    """Say at the top of a page that it is not translated."""
    if app.config.language == "ja" and document is not None and not is_translated(page):
        context["body"] = NOTICE + context["body"]


class Parser(MystParser):
    """Markdown, in which a link's place in another page is part of its target until the translations are in place.

    Sphinx tells a translation's links apart by page alone: of two to one page it would send both to the same place.
    """

    def parse(self, inputstring: str, document: nodes.document) -> None:
        super().parse(inputstring, document)
        for link in document.findall(pending_xref):
            if link.get("reftargetid"):
                link["reftarget"] += f"#{link['reftargetid']}"


class SplitTargets(SphinxTransform):
    """Page and place of a link apart again."""

    default_priority = Locale.default_priority + 1

    def apply(self, **kwargs: Any) -> None:
        for link in self.document.findall(pending_xref):
            if link.get("reftargetid"):
                link["reftarget"] = link["reftarget"].removesuffix(f"#{link['reftargetid']}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", note)
    app.connect("doctree-read", check)
    app.add_source_parser(Parser, override=True)
    app.add_transform(SplitTargets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
