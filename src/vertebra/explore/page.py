"""The page: its script, style, texts and document in one HTML file that opens offline."""

from __future__ import annotations

import html
from functools import cache
from importlib import resources
from typing import Any

from vertebra.report.page import digest
from vertebra.strict_json import dumps

LANGUAGES = ("en", "ja")
MARKER = '<meta name="generator" content="vertebra explore">'  # near the start of the page


def render_page(document: dict[str, Any]) -> str:
    """The document as a page."""
    script, style = _asset("static/explore.js"), _asset("static/explore.css")
    policy = f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(style)}'; img-src data: blob:"
    title = html.escape(" · ".join(dict.fromkeys(network["name"] for network in document["networks"])))
    return f"""<!doctype html>
<html lang="{document["language"]}">
<head>
<meta charset="utf-8">
{MARKER}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title} – Vertebra</title>
<style>{style}</style>
</head>
<body>
<div id="app"></div>
<noscript><main><h1>{title}</h1><p>This page needs JavaScript.</p></main></noscript>
<script type="application/json" id="texts">{_json(texts())}</script>
<script type="application/json" id="document">{_json(document)}</script>
<script>{script}</script>
</body>
</html>
"""


@cache
def texts() -> dict[str, dict[str, str]]:
    """The page's texts by language and key; {name} stands for a value."""
    import json

    return {language: json.loads(_asset(f"strings/{language}.json")) for language in LANGUAGES}


def _json(value: Any) -> str:
    # In a script element, "</script" or "<!--" in a name would end or change it.
    return dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


@cache
def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
