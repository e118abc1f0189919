"""Patterns of sources: `{000000..000099}` and `{a,b}` as in a shell, `*`, `?`, `[…]` and `**`, also in a bucket."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator

from vertebra.errors import UsageError, suggest_path
from vertebra.storage import Location

MAX_EXPANDED = 1_000_000  # names of one pattern
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def expand(text: str) -> Iterator[Location]:
    """Yield the files and folders that a text stands for; one without a pattern may be missing.

    Raises:
        UsageError: a pattern matches nothing, or too much.
        StorageError: a folder or bucket cannot be listed.
    """
    if not Location(text).is_remote and os.path.lexists(text):
        yield Location(text)
        return
    for name in expand_braces(text):
        if not glob.has_magic(name):
            yield Location(name)
            continue
        found = False
        for location in _match(name):
            found = True
            yield location
        if not found:
            hint = "" if Location(name).is_remote else suggest_path(name)
            raise UsageError(f"{name}: no file matches. {hint}".rstrip())


def expand_braces(pattern: str) -> list[str]:
    """Expand `{000000..000099}` and `{a,b}`, several of which may stand in one pattern; other braces stay."""
    for match in re.finditer(r"\{([^{}]*)\}", pattern):
        inner = match[1]
        if numbers := _RANGE.fullmatch(inner):
            first, last = int(numbers[1]), int(numbers[2])
            if abs(last - first) >= MAX_EXPANDED:
                raise UsageError(f"{pattern} stands for more than {MAX_EXPANDED:,} names.")
            padded = any(re.match(r"-?0\d", text) for text in numbers.groups())
            width = max(map(len, numbers.groups())) if padded else 0
            step = 1 if first <= last else -1
            parts = [f"{number:0{width}d}" for number in range(first, last + step, step)]
        elif "," in inner:
            parts = inner.split(",")
        else:
            continue
        rests = expand_braces(pattern[match.end() :])
        if len(parts) * len(rests) > MAX_EXPANDED:
            raise UsageError(f"{pattern} stands for more than {MAX_EXPANDED:,} names.")
        return [f"{pattern[: match.start()]}{part}{rest}" for part in parts for rest in rests]
    return [pattern]


def _match(pattern: str) -> Iterator[Location]:
    """Yield what matches, by name."""
    if not Location(pattern).is_remote:
        yield from map(Location, sorted(glob.glob(pattern, recursive=True)))  # noqa: PTH207 - it may be absolute
        return
    before = pattern[: re.search(r"[*?\[]", pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]
    scheme, _, path = before.partition("://")
    if not path or before.endswith(":/"):
        raise UsageError(f"{pattern}: the bucket has to be named, as in {scheme or 's3'}://bucket/*.tar.")
    matches = re.compile(_as_regex(pattern), re.DOTALL)
    yield from (entry.location for entry in Location(before).list() if matches.fullmatch(str(entry.location)))


def _as_regex(pattern: str) -> str:
    """Translate a glob pattern: `*` and `?` match no slash, `**/` any number of folders."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]]*\])", pattern)
    found = []
    for part in parts:
        if part.startswith("[") and part.endswith("]") and len(part) > 2:
            inside = part[1:-1].replace("\\", r"\\")
            found.append(f"[^{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]")
        else:
            found.append({"**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}.get(part) or re.escape(part))
    return "".join(found)
