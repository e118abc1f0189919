"""What an audit found, as the templates show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .page import shown
from .pictures import Folder, Pictures


def findings(
    document: Mapping[str, Any], pictures: Pictures, folder: Folder, most: int | None = None
) -> dict[str, Any]:
    """The values of `parts.findings` and `parts.left_out`.

    Args:
        document: as `vertebra.data.findings` gives it.
        pictures: of the page; those of what was found are added.
        folder: of the page.
        most: pictures that are added; None: as many as there is room for.
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
