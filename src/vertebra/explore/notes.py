"""What the reader of a page has to know of it: the key of a text in `strings/`, and its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Note:
    """A message in no language yet."""

    key: str
    values: dict[str, str | int | float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"key": self.key, "values": self.values}


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first names, for a value of a note."""
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])
