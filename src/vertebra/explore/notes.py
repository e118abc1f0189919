"""What the reader of a page has to know of it: the key of a text in `strings/`, and its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Note:
    """A message in no language yet."""

    key: str
    values: dict[str, str | int | float | list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"key": self.key, "values": self.values}


def said(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values for a sentence: of a list of names the first, and how many there are."""
    return {key: listed(value) if isinstance(value, list) else value for key, value in values.items()}


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
