"""Settings dataclasses: allowed values, type checks, and TOML.

A dataclass declares its fields with `within` and `one_of`, and calls `validate_values` in `__post_init__`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any

from vertebra.errors import UsageError, suggest


def within(low: float, high: float, *, default: Any) -> Any:
    """Declare a field whose value is a number from `low` to `high`, or None."""
    return field(default=default, metadata={"range": (low, high)})


def one_of(allowed: Sequence[str], *, default: str | None) -> Any:
    """Declare a field whose value is one of `allowed`, or None."""
    return field(default=default, metadata={"allowed": tuple(allowed)})


def validate_values(settings: Any) -> None:
    """Reject values that the fields of a dataclass do not allow: names first, then numbers."""
    given = [(entry, value) for entry in fields(settings) if (value := getattr(settings, entry.name)) is not None]
    for entry, value in given:
        allowed = entry.metadata.get("allowed", (value,))
        if value not in allowed:
            hint = suggest(value, allowed) or f"Allowed are {', '.join(allowed)}."
            raise UsageError(f"there is no {entry.name} {value!r}. {hint}")
    for entry, value in given:
        low, high = entry.metadata.get("range", (value, value))
        if not low <= value <= high:
            raise UsageError(f"{entry.name} is {value}; it must be from {_number(low)} to {_number(high)}.")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}


def validate_type(name: str, value: Any, kind: str, source: str) -> Any:
    """Return the value if its type fits the annotation `kind`; integers become floats for a float field."""
    if kind.startswith("tuple"):
        if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
            raise UsageError(f'{source}: {name} is {value!r}; it must be a list of texts, such as ["extra"].')
        return tuple(value)
    allowed: tuple[Any, ...] = tuple(t for part in kind.split(" | ") for t in _TYPES.get(part, ()))
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UsageError(f"{source}: {name} is {value!r}; it must be of type {kind.removesuffix(' | None')}.")
    return float(value) if "float" in kind and not isinstance(value, str) else value


def toml_value(value: str | float | bool | Sequence[str]) -> str:
    """Format a value as TOML (https://toml.io/en/v1.0.0)."""
    if isinstance(value, str):
        return f'"{re.sub(_NOT_IN_QUOTES, lambda found: _escaped(found[0]), value)}"'
    if isinstance(value, Sequence):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value)  # numbers and booleans are the same in JSON


# Not JSON's escapes: surrogate pairs are invalid in TOML, and DEL is not escaped.
_NOT_IN_QUOTES = r'["\\\x00-\x1f\x7f]'


def _escaped(character: str) -> str:
    return f"\\{character}" if character in '"\\' else f"\\u{ord(character):04x}"


def read_toml(path: Path) -> dict[str, Any]:
    """Read settings from a file without validating them; a UsageError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}).") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML ({error}).") from error
