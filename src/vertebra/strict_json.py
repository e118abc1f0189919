"""JSON by its standard (RFC 8259), which has neither NaN nor infinity."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vertebra.errors import shortened


def dumps(value: Any, **options: Any) -> str:
    """As `json.dumps` with its options, but null for NaN and infinity, which JavaScript, jq and most readers refuse."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:  # also for a value that contains itself, which then fails again
        return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def loads(text: str, max_depth: int) -> Any:
    """As `json.loads`, without what the standard leaves open.

    Raises:
        ValueError: no JSON, a key that is there twice, a number that is not finite, a lone surrogate, deeper nesting.
        RecursionError: it is nested far deeper.
    """
    document = json.loads(text, object_pairs_hook=_unique, parse_float=_number, parse_constant=_number)
    if _depth(document) > max_depth:
        raise ValueError(f"it is nested more than {max_depth} levels deep")
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # JSON can write it, and no file and no terminal takes it
        raise ValueError("it has half a character, a lone surrogate") from None
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            raise ValueError(f"the key {shortened(repr(name), 20)} stands in it twice")
    return dict(pairs)


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{shortened(text, 20)} is no finite number")
    return value


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)
