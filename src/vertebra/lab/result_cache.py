"""Results that are kept: one is used again as long as its code, versions, machine and settings are the same."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vertebra.cache import cache_dir, checksum, read_json, write_json


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
    """A digest of the `code_files` of a module."""
    return checksum(*(path.read_bytes() for path in sorted(code_files(module)))).hex()


def code_files(module: Path) -> set[Path]:
    """A module, all of its package that it uses, directly or not, and the files that these name.

    Of `from package import name`, the module that holds the name counts, not all that the package has.
    """
    root = module.parent
    while (root.parent / "__init__.py").is_file():
        root = root.parent
    files = _Files(root)
    seen: set[Path] = set()
    queue = [module]
    while queue:
        path = queue.pop()
        if path not in seen:
            seen.add(path)
            queue += files.used_by(path)
    return seen


@dataclass(frozen=True)
class _Files:
    """The files of a package, whose folder is `root`."""

    root: Path

    def used_by(self, path: Path) -> set[Path]:
        """The modules that a module imports, anywhere in it, and the files beside it that it names."""
        if path.suffix != ".py":
            return set()
        _, imports, texts = _parsed(path, self.root)
        found = {path.parent / text for text in texts if (path.parent / text).is_file()}
        for parts, name in imports:
            found |= self._holding(parts, name)
        # A package that imports by `*` registers what it imports: whatever is in it depends on all of that.
        folders = {f for each in (*found, path) for f in each.parents if self.root in f.parents}
        return found | {f / "__init__.py" for f in folders if self._registers(f / "__init__.py")}

    def _registers(self, package: Path) -> bool:
        return package.is_file() and any(name == "*" for _, name in _parsed(package, self.root)[1])

    def _holding(self, parts: tuple[str, ...], name: str) -> set[Path]:
        """The module that holds a name of a module or package; `name` is empty for the module itself."""
        place = self.root.joinpath(*parts[1:])
        if place.with_suffix(".py").is_file():
            return {place.with_suffix(".py")}
        package = place / "__init__.py"
        if not package.is_file():
            return set()
        for inner in (place / f"{name}.py", place / name / "__init__.py"):
            if name and inner.is_file():
                return {inner}
        exports = _parsed(package, self.root)[0]
        return self._holding(*exports[name]) if name in exports else {package}


_FILE_NAME = re.compile(r"\w[\w-]*\.(?!py$)\w+")
_Import = tuple[tuple[str, ...], str]  # module, and a name in it


@cache
def _parsed(path: Path, root: Path) -> tuple[dict[str, _Import], tuple[_Import, ...], frozenset[str]]:
    """What a module exports of others by name, what it imports, and texts in it that could be names of files."""
    package = (root.name, *path.relative_to(root).parent.parts)
    exports: dict[str, _Import] = {}
    imports: list[_Import] = []
    texts = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            imports += [(tuple(alias.name.split(".")), "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            imports += [(base, alias.name) for alias in node.names]
            exports |= {alias.asname or alias.name: (base, alias.name) for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _FILE_NAME.fullmatch(node.value):
            texts.add(node.value)
    own = [(parts, name) for parts, name in imports if parts[:1] == (root.name,)]
    return exports, tuple(own), frozenset(texts)
