"""JSON as its standard has it (RFC 8259), which knows neither NaN nor infinity: both are written as null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(value: Any, **options: Any) -> str:
    """As `json.dumps`, whose options it takes, with null for each number that is NaN or infinite.

    Every JSON that a command writes is made here: Python's own writes `NaN`, which JavaScript, jq and most other
    readers refuse.
    """
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
