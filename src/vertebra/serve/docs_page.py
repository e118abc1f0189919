"""/docs: the OpenAPI document as one HTML page, without scripts or external files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
h2{margin-top:2.5rem;border-top:1px solid #8886;padding-top:1rem;font-size:1.1rem}
code,pre{font:14px/1.5 ui-monospace,monospace}
pre{overflow-x:auto;padding:.7rem;background:#8882;border-radius:.4rem}
b{font-family:ui-monospace,monospace}
table{border-collapse:collapse}
td{padding:.15rem 1rem .15rem 0;vertical-align:top}
"""
POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_EXAMPLES = {
    "/v1/predict": "curl -F files=@cat.jpg -F files=@dog.jpg '{url}/v1/predict?top=3'",
    "/v1/embed": "curl -H 'Content-Type: image/jpeg' --data-binary @cat.jpg {url}/v1/embed",
    "/v1/explain": "curl -F files=@cat.jpg -o heat.png '{url}/v1/explain?layer=overlay'",
    "/metrics": "curl {url}/metrics",
}


def render_docs_page(document: Mapping[str, Any], url: str) -> str:
    """Render an OpenAPI document as HTML; `url` is the server's address in the examples."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{escape(document['info']['title'])}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(document['info']['title'])} {escape(document['info']['version'])}</h1>",
        f"<p>{escape(document['info'].get('description', ''))}</p>",
        "<p>The whole description, for programs: <a href='openapi.json'>openapi.json</a>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _render_operation(path, method, operation, document, url)
    return "".join([*parts, "</main></body></html>"])


def _render_operation(path: str, method: str, operation: Any, document: Any, url: str) -> list[str]:
    parts = [f"<h2><b>{method.upper()} {escape(path)}</b></h2><p>{escape(operation.get('description', ''))}</p>"]
    if path in _EXAMPLES:
        parts.append(f"<pre>{escape(_EXAMPLES[path].format(url=url))}</pre>")
    rows: list[tuple[str, ...]] = [
        (entry["name"], entry["in"], entry.get("description", ""), _describe_schema(entry.get("schema", {}), document))
        for entry in operation.get("parameters", [])
    ]
    if rows:
        parts.append(_render_table(rows))
    body = operation.get("requestBody")
    if body:
        kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in body["content"])
        parts.append(f"<p>Body: {kinds}</p>")
    responses: list[tuple[str, ...]] = []
    for status, answer in operation["responses"].items():
        shapes = [
            _describe_schema(content.get("schema", {}), document) for content in answer.get("content", {}).values()
        ]
        responses.append((status, answer.get("description", ""), " ".join(shapes)))
    return [*parts, _render_table(responses)]


def _render_table(rows: list[tuple[str, ...]]) -> str:
    lines = ("".join(f"<td>{'<code>' * (not i)}{escape(cell)}" for i, cell in enumerate(row)) for row in rows)
    return f"<table>{''.join(f'<tr>{line}' for line in lines)}</table>"


def _describe_schema(schema: Any, document: Any, depth: int = 0) -> str:
    """Describe a schema in one line: `{"models": [{"name": string, …}]}`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return name if depth > 4 else _describe_schema(document["components"]["schemas"][name], document, depth)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(_describe_schema(entry, document, depth) for entry in schema[key])
    if "enum" in schema:
        return " | ".join(repr(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"[{_describe_schema(schema.get('items', {}), document, depth + 1)}]"
    if "properties" in schema:
        inner = (
            f"{name}: {_describe_schema(entry, document, depth + 1)}" for name, entry in schema["properties"].items()
        )
        return "{" + ", ".join(inner) + "}"
    limits = [f"{schema[key]}" for key in ("minimum", "maximum") if key in schema]
    return f"{schema.get('type', '')} {'–'.join(limits)}".strip()
