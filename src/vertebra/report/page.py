"""Renders a template and its values into one HTML document without external resources."""

from __future__ import annotations

import base64
import hashlib
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from vertebra.errors import printable
from vertebra.sources.photo_place import PhotoPlace, parse_place
from vertebra.strict_json import dumps

if TYPE_CHECKING:
    from jinja2 import Environment

    from .thumbnails import PhotoLinks, Thumbnails

NOT_MEASURED = "not measured"


def render(
    template: str,
    *,
    title: str,
    kind: str,
    data: dict[str, Any],
    styles: Sequence[str] = ("style.css",),
    scripts: Sequence[str] = ("theme.js", "page.js"),
    language: str = "en",
    t: Callable[[str], str] = str,
    **values: Any,
) -> str:
    """Render a file of `templates/`; `kind` is shown in the header.

    `data` has JSON values for the `scripts`, which show them as text; `values` are escaped by the template. `t`
    translates the template's own texts to `language`.
    """
    values |= {"title": title, "kind": kind, "data": data, "language": language, "t": t}
    values |= {"style": _assets(styles), "script": _assets(scripts)}
    return str(_environment().get_template(template).render(values))


def shown(text: str) -> str:
    """Format a name or path in one line, with control characters and direction marks escaped."""
    return printable(str(text))


def percent(share: float | None) -> str:
    """Format as `"95.3 %"`, or `"not measured"` if None."""
    return NOT_MEASURED if share is None else f"{100 * share:.1f} %"


def interval(found: tuple[float, float] | None) -> str:
    """Format as `"94.0 – 96.5 %"`, or "" if None."""
    return "" if found is None else f"{100 * found[0]:.1f} – {100 * found[1]:.1f} %"


def seconds(value: float) -> str:
    """Format as `"0.4 s"` or `"2 min 5 s"`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(math.floor(value + 0.5), 60)
    return f"{minutes} min {rest} s"


def package_versions(*packages: str) -> dict[str, str]:
    """Return the versions of Vertebra, Python and the installed ones of these packages."""
    from vertebra import __version__

    found = {"vertebra": __version__, "python": platform.python_version()}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def findings(
    document: Mapping[str, Any], pictures: Thumbnails, folder: PhotoLinks, max_new: int | None = None
) -> dict[str, Any]:
    """Turn the result of `vertebra.data.findings` into values for the macros `findings` and `left_out`.

    At most `max_new` thumbnails are added to `pictures`.
    """
    min_free = 0 if max_new is None else pictures.num_free - max_new

    def key(path: PhotoPlace) -> int | None:
        return pictures.add(path) if pictures.num_free > min_free else pictures.key(path)

    def photo_cells(photos: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        return [
            {"key": key(place), "link": folder.link(place), "name": shown(name), "text": shown(text)}
            for place, name, text in ((parse_place(path), name, text) for path, name, text in photos)
        ]

    return {
        **{name: document[name] for name in ("problems", "conclusion", "notes", "lists", "classes")},
        "largest": max((count for _, count in document["classes"]), default=0),
        "groups": [
            section | {"groups": [{"photos": photo_cells(photos), "more": more} for photos, more in section["groups"]]}
            for section in document["groups"]
        ],
        "odd": [section | {"photos": photo_cells(section["photos"])} for section in document["odd"]],
        "broken": [
            {"link": folder.link(parse_place(path)), "name": shown(name), "kind": kind, "reason": reason}
            for path, name, kind, reason in document["broken"]
        ],
        "broken_count": document["broken_count"],
    }


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from vertebra import __version__

    from .charts import HEIGHT, WIDTH

    found = Environment(
        loader=FileSystemLoader(str(resources.files(__package__) / "templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    found.policies["json.dumps_function"] = dumps
    found.filters |= {"shown": shown, "percent": percent, "interval": interval, "seconds": seconds, "digest": digest}
    found.filters["whole"] = "{:,}".format
    found.globals |= {"version": __version__, "width": WIDTH, "height": HEIGHT}
    return found


@lru_cache(maxsize=8)
def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _assets(names: Sequence[str]) -> Any:
    from markupsafe import Markup

    return Markup("".join(map(_asset, names)))  # noqa: S704 - our own files


def digest(content: str) -> str:
    """Return the hash of an inline style or script for the content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}"
