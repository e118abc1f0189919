"""How Sphinx builds the documentation: `make docs` makes it in English and in Japanese, in `build/docs/`."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent / "src")]

from vertebra import __version__ as release  # noqa: E402
from vertebra.callable_module import CallableModule  # noqa: E402

project = "Vertebra"
copyright = "The Vertebra authors"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "number_role",
    "experiment_directive",
    "translated_pages",
    "reference_directives",
    "made_from",
]
exclude_patterns = ["_*", "locale"]
default_role = "code"
smartquotes = False  # options begin with two hyphens

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

language = "en"
locale_dirs = ["locale"]
gettext_compact = False
gettext_location = False
gettext_last_translator = "The Vertebra authors"
figure_language_filename = "{root}.{language}{ext}"

html_theme = "furo"
html_title = f"Vertebra {release}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["book.css"]
html_js_files = ["pages.js"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/language.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}


# Pages link to these where they lie; the documentation has them as pages of its own.
_INCLUDED = {"CONTRIBUTING.md": "project/contributing.md", "CHANGELOG.md": "project/changes.md"}


def _link_included(app: Any, page: str, source: list[str]) -> None:
    up = "../" * page.count("/")
    for name, included in _INCLUDED.items():
        source[0] = re.sub(rf"\]\((\.\./)+{re.escape(name)}", f"]({up}{included}", source[0])


def _take_function(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Of a package that can be called, what its function says."""
    if isinstance(value, CallableModule):
        lines[:] = (inspect.getdoc(getattr(value, value.__name__.rpartition(".")[2])) or "").splitlines()


def _escape(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with code in backticks: *, | and _ mean themselves."""
    for place, line in enumerate(lines):
        pieces = re.split(r"(`[^`]*`)", line)
        lines[place] = "".join(p if p.startswith("`") else re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", p) for p in pieces)


def _level_captions(app: Any, page: str, template: str, context: dict[str, Any], document: Any) -> None:
    """A caption in the navigation is a heading, whose level screen readers want to know."""
    for part in ("body", "furo_navigation_tree"):
        if context.get(part):
            context[part] = context[part].replace(' role="heading">', ' role="heading" aria-level="2">')


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("html-page-context", _level_captions, priority=900)  # after furo's, which makes the navigation
    app.connect("source-read", _link_included)
    app.connect("autodoc-process-docstring", _take_function, priority=300)
    # Before napoleon, which writes markup of its own.
    app.connect("autodoc-process-docstring", _escape, priority=400)
