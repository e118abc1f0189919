"""The page: its script, style, texts and document in one HTML file that opens offline."""

from __future__ import annotations

import html
from collections import Counter
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from vertebra.errors import UsageError
from vertebra.files import check_writable, wrap_write_errors
from vertebra.report.page import digest
from vertebra.strict_json import dumps

LANGUAGES = ("en", "ja")
_LONG = 200  # characters of a text that is stored once
MARKER = '<meta name="generator" content="vertebra explore">'  # near the start of the page


def render_page(document: dict[str, Any]) -> str:
    """The document as a page."""
    packed, shared = pack(document)
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
<noscript><main><h1>{title}</h1><p>{texts()[document["language"]]["page.noscript"]}</p></main></noscript>
<script type="application/json" id="texts">{_json(texts())}</script>
<script type="application/json" id="shared">{_json(shared)}</script>
<script type="application/json" id="document">{_json(packed)}</script>
<script>{script}</script>
</body>
</html>
"""


@cache
def texts() -> dict[str, dict[str, str]]:
    """The page's texts by language and key; {name} stands for a value."""
    import json

    return {language: json.loads(_asset(f"strings/{language}.json")) for language in LANGUAGES}


def fixed_bytes() -> int:
    """What a page takes besides its document."""
    assets = (_asset("static/explore.js"), _asset("static/explore.css"), _json(texts()))
    return sum(len(asset.encode()) for asset in assets) + 2000


def packed_bytes(document: dict[str, Any]) -> int:
    """What a document takes in a page."""
    return sum(len(page_bytes(_json(value))) for value in pack(document))


def page_bytes(text: str) -> bytes:
    """UTF-8; half a character, as a file name that is no UTF-8 has, becomes an escape that JSON knows."""
    return text.encode("utf-8", "backslashreplace")


def pack(document: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """The document with `{"$": index}` for what is in it twice, long texts and equal parts of networks, and these."""
    counts: Counter[str] = Counter()
    _count_texts(document, counts)
    shared: list[Any] = [text for text, count in counts.items() if count > 1]
    index_of = {text: index for index, text in enumerate(shared)}
    packed = _with_references(document, index_of) if shared else dict(document)
    networks = packed["networks"]
    if len(networks) == 2 and networks[0]["parts"] == networks[1]["parts"]:
        packed["networks"] = [found | {"parts": {"$": len(shared)}} for found in networks]
        shared.append(document["networks"][0]["parts"])  # in `shared` itself there are no references
    return packed, shared


def _count_texts(value: Any, counts: Counter[str]) -> None:
    if isinstance(value, str):
        if len(value) >= _LONG:
            counts[value] += 1
    elif isinstance(value, dict):
        for inner in value.values():
            _count_texts(inner, counts)
    elif isinstance(value, list):
        for inner in value:
            _count_texts(inner, counts)


def _with_references(value: Any, index_of: dict[str, int]) -> Any:
    if isinstance(value, str) and len(value) >= _LONG and value in index_of:
        return {"$": index_of[value]}
    if isinstance(value, dict):
        return {key: _with_references(inner, index_of) for key, inner in value.items()}
    return [_with_references(inner, index_of) for inner in value] if isinstance(value, list) else value


def check_page_path(path: Path) -> None:
    """Raise an error if no page can be written there: a folder, a file that is none of these pages, no permission.

    Raises:
        UsageError: something else is there.
        VertebraError: no file can be created.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; the page needs a name in it: {path / 'page.html'}")
    if path.exists():
        if not path.is_file():  # reading a pipe or a device may never end
            raise UsageError(f"{path} is a pipe or device; a page is written to a file. Name another.")
        with wrap_write_errors(path), path.open("rb") as file:
            start = file.read(1000)
        if start and MARKER.encode() not in start:
            raise UsageError(f"{path} exists and is no page of vertebra explore, so it is not replaced. Name another.")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder, so {path.name} cannot be written there. Make it first.")
    with wrap_write_errors(path):
        check_writable(path)


def _json(value: Any) -> str:
    # In a script element, "</script" or "<!--" in a name would end or change it.
    return dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


@cache
def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
