"""From a template and its values to one HTML document that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import math
import platform
from functools import lru_cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from vertebra.errors import printable
from vertebra.strict_json import dumps

if TYPE_CHECKING:
    from jinja2 import Environment

NOT_MEASURED = "not measured"


def render(template: str, *, title: str, kind: str, data: dict[str, Any], **values: Any) -> str:
    """The whole document.

    Args:
        template: a file of `templates/`.
        title: of the document.
        kind: what kind of page it is, for its header.
        data: what `page.js` works on; values of JSON. Its texts are shown as they are.
        values: of the template. All texts are escaped.
    """
    text: str = (
        _environment()
        .get_template(template)
        .render(title=title, kind=kind, data=data, style=_asset("style.css"), script=_asset("page.js"), **values)
    )
    return text


def shown(text: str) -> str:
    """A name or a path as a page shows it: in one line, with control characters and marks of direction written out."""
    return printable(str(text)).replace("\n", "\\n")


def percent(share: float | None) -> str:
    """`"95.3 %"`; `"not measured"` of None."""
    return NOT_MEASURED if share is None else f"{100 * share:.1f} %"


def interval(found: tuple[float, float] | None) -> str:
    """`"94.0 – 96.5 %"`; nothing of None."""
    return "" if found is None else f"{100 * found[0]:.1f} – {100 * found[1]:.1f} %"


def whole(count: int) -> str:
    """`"12,345"`."""
    return f"{count:,}"


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
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


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
    found.filters |= {"shown": shown, "percent": percent, "interval": interval, "whole": whole, "seconds": seconds}
    found.filters["digest"] = _digest
    found.globals |= {"version": __version__, "width": WIDTH, "height": HEIGHT}
    return found


@lru_cache(maxsize=2)
def _asset(name: str) -> Any:
    from markupsafe import Markup

    return Markup((resources.files(__package__) / name).read_text(encoding="utf-8"))  # noqa: S704 - our own file


def _digest(content: str) -> str:
    """What a content security policy calls that inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}"
