"""Renders an `Anatomy` as one HTML page that works offline."""

from __future__ import annotations

import html
from importlib.resources import files
from typing import Any

from vertebra.graph.cost import Kind
from vertebra.strict_json import dumps

# Keys of a row that the page shows; all of them would double its size.
_PLACE = ("index", "name", "op", "kind", "detail", "stage", "block", "output_shape", "receptive_field", "sees_all")
_COSTS = ("parameters", "macs", "other_ops", "bytes", "intensity", "live_bytes")
_SHOWN = frozenset((*_PLACE, *_COSTS))


def render_page(found: dict[str, Any]) -> str:
    """Render the result of `Anatomy.to_dict` as a page with its data inside."""
    data = found | {
        "rows": [{name: value for name, value in row.items() if name in _SHOWN} for row in found["rows"]],
        "layers": sum(row["kind"] != Kind.VIEW.value for row in found["rows"]),
    }
    del data["blocks"]
    # In a script element, "</script" or "<!--" in a name would end or change it.
    text = dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    before, title, rest = template.partition("{{title}}")
    middle, mark, after = rest.partition("{{data}}")
    assert title and mark  # noqa: S101 - the template is ours
    return f"{before}{html.escape(data['name'])} – anatomy{middle}{text}{after}"


def embed_in_iframe(text: str, title: str) -> str:
    """Wrap the page in an iframe, so that its style does not affect the notebook's."""
    style = "width: 100%; height: 640px; border: 0"
    return f'<iframe title="{html.escape(title)}" srcdoc="{html.escape(text)}" style="{style}"></iframe>'
