"""Each link inside the built pages leads to a file that exists, and to a place in it: `python docs/check_links.py DIR`.

Sphinx checks the links that it writes itself; this one also those of templates, the switch of languages and pictures.
"""

from __future__ import annotations

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Links(HTMLParser):
    """The targets of a page's links and the ids that others can lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.targets |= {values[name] for name in ("href", "src") if name in values}
        self.ids |= {values[name] for name in ("id", "name") if name in values}


@cache
def links(page: Path) -> Links:
    found = Links()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def broken(folder: Path) -> list[str]:
    """`"en/index.html: nowhere.html"` for each link that leads nowhere."""
    found = []
    for page in sorted(folder.rglob("*.html")):
        for target in sorted(links(page).targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            is_there = path.is_file()
            if is_there and parts.fragment and path.suffix == ".html":
                is_there = unquote(parts.fragment) in links(path).ids
            if not is_there:
                found.append(f"{page.relative_to(folder)}: {target}")
    return found


if __name__ == "__main__":
    wrong = broken(Path(sys.argv[1]).resolve())
    sys.exit("\n".join(["links that lead nowhere:", *wrong]) if wrong else 0)
