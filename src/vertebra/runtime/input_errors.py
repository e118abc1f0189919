"""What to say of what is no image: the value, what is allowed, what to write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np

from vertebra.errors import UsageError

ONE_IMAGE = (
    "a path, a web address, the bytes of a file, an open binary file, a PIL image, a NumPy array uint8 (H, W, 3) or a "
    "torch tensor uint8 (3, H, W)"
)
TABLES = ("DataFrame", "LazyFrame", "Table", "RecordBatch")
_MISSING = ("NoneType", "NAType", "NaTType")


def refusal(value: Any, where: str, allowed: str, hint: str = "") -> UsageError:
    """The error for what is no image, with what to write instead."""
    kind = type(value).__name__
    what = f"of the type {kind}"
    if isinstance(value, int | float | complex | np.generic) or kind in _MISSING:
        what = repr(value)[:40]
        hint = hint or (" A missing value has to be left out." if kind in _MISSING or value != value else "")
    return UsageError(f"{where} is {what}; allowed is {allowed}.{hint or _what_to_write(value)}")


def _what_to_write(value: Any) -> str:
    kind = type(value).__name__
    if kind in TABLES:
        return " Give its column of paths: x['path']."
    if isinstance(value, Mapping):
        return " Give the image or the path in it: x['image']."
    if isinstance(value, Set):
        return " A set has no order: write sorted(x)."
    if isinstance(value, list | tuple):
        return (
            " For several images write predict_many(x), of one flat list; for pairs of an image, or of a batch, and a "
            "label predict_many(image for image, label in pairs)."
        )
    if kind in ("Series", "Index") or isinstance(value, Iterator):
        return " For several images write predict_many(x)."
    if hasattr(value, "content") and hasattr(value, "status_code"):
        return " Give what was downloaded: x.content."
    if hasattr(value, "read_bytes"):
        return " Give its content: x.read_bytes()."
    if hasattr(value, "__array__"):
        return " Give it as an array of NumPy: numpy.asarray(x)."
    if isinstance(getattr(value, "path", None), str):
        return " Give its path: x.path."
    if hasattr(value, "as_py"):
        return " Give a list of Python's own values: x.to_pylist()."
    return ""
