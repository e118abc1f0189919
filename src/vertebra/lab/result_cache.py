"""Results that are kept: one is used again as long as its code, versions, machine and settings are the same."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import vertebra
from vertebra.cache import cache_dir, checksum, read_json, write_json

_SOURCE = Path(vertebra.__file__).parent


def kept(entry: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of this experiment for this key, or None."""
    return read_json(_path(entry, key))


def keep(entry: str, key: Mapping[str, Any], result: dict[str, Any]) -> None:
    """Keep a result."""
    write_json(_path(entry, key), result)


def _path(entry: str, key: Mapping[str, Any]) -> Path:
    digest = checksum(json.dumps(key, sort_keys=True, default=str)).hex()
    return cache_dir() / "lab" / f"{entry}-{digest}.json"


def code_digest(module: Path) -> str:
    """A digest of a module and of all modules of Vertebra that it imports, directly or not."""
    seen: set[Path] = set()
    queue = [module]
    while queue:
        path = queue.pop()
        if path not in seen:
            seen.add(path)
            queue += _imports(path)
    return checksum(*(path.read_bytes() for path in sorted(seen))).hex()


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    """The modules of Vertebra that a module imports, anywhere in it, and the packages that they are in."""
    package = (_SOURCE.name, *path.relative_to(_SOURCE).parent.parts)
    names: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names |= {base, *((*base, alias.name) for alias in node.names)}
    found: set[Path] = set()
    for parts in names:
        if parts[:1] == (_SOURCE.name,):
            for end in range(1, len(parts) + 1):
                place = _SOURCE.joinpath(*parts[1:end])
                found |= {p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()}
    return tuple(sorted(found))
