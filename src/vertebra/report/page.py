"""From a template and its values to one HTML document that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vertebra.errors import printable
from vertebra.strict_json import dumps

if TYPE_CHECKING:
    from jinja2 import Environment

    from .pictures import Folder, Pictures

NOT_MEASURED = "not measured"


def render(template: str, *, title: str, kind: str, data: dict[str, Any], **values: Any) -> str:
    """The whole document, from a file of `templates/`, whose header says the kind of page.

    `data` is what `page.js` works on, values of JSON, whose texts are shown as they are. Those of `values` are escaped.
    """
    values |= {"title": title, "kind": kind, "data": data, "style": _asset("style.css"), "script": _asset("page.js")}
    return str(_environment().get_template(template).render(values))


def shown(text: str) -> str:
    """A name or a path as a page shows it: in one line, with control characters and marks of direction written out."""
    return printable(str(text)).replace("\n", "\\n")


def percent(share: float | None) -> str:
    """`"95.3 %"`; `"not measured"` of None."""
    return NOT_MEASURED if share is None else f"{100 * share:.1f} %"


def interval(found: tuple[float, float] | None) -> str:
    """`"94.0 – 96.5 %"`; nothing of None."""
    return "" if found is None else f"{100 * found[0]:.1f} – {100 * found[1]:.1f} %"


def seconds(value: float) -> str:
    """`"0.4 s"`, `"2 min 5 s"`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(math.floor(value + 0.5), 60)
    return f"{minutes} min {rest} s"


def versions(*packages: str) -> dict[str, str]:
    """Of Vertebra, Python and those packages that are installed."""
    from vertebra import __version__

    found = {"vertebra": __version__, "python": platform.python_version()}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def findings(
    document: Mapping[str, Any], pictures: Pictures, folder: Folder, most: int | None = None
) -> dict[str, Any]:
    """What an audit found as values of `parts.findings` and `parts.left_out`, from what `vertebra.data.findings` gives.

    At most so many pictures of what was found are added to those of the page.
    """
    least = 0 if most is None else pictures.room - most

    def key(path: Path) -> int | None:
        return pictures.add(path) if pictures.room > least else pictures.key(path)

    def shots(photos: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        return [
            {"key": key(Path(path)), "link": folder.link(Path(path)), "name": shown(name), "text": shown(text)}
            for path, name, text in photos
        ]

    return {
        **{name: document[name] for name in ("problems", "conclusion", "notes", "lists", "classes")},
        "largest": max((count for _, count in document["classes"]), default=0),
        "groups": [
            section | {"groups": [{"photos": shots(photos), "more": more} for photos, more in section["groups"]]}
            for section in document["groups"]
        ],
        "odd": [section | {"photos": shots(section["photos"])} for section in document["odd"]],
        "broken": [
            {"link": folder.link(Path(path)), "name": shown(name), "kind": kind, "reason": reason}
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
    found.filters |= {"shown": shown, "percent": percent, "interval": interval, "seconds": seconds, "digest": _digest}
    found.filters["whole"] = "{:,}".format
    found.globals |= {"version": __version__, "width": WIDTH, "height": HEIGHT}
    return found


@lru_cache(maxsize=2)
def _asset(name: str) -> Any:
    from markupsafe import Markup

    return Markup((resources.files(__package__) / name).read_text(encoding="utf-8"))  # noqa: S704 - our own file


def _digest(content: str) -> str:
    """What a content security policy calls that inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}"
