"""The scripts under bench/ keep up with the package: what they import from it is there."""

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "bench").glob("*.py"))


def imported(path):
    """Each (module of the package, name that is imported from it, or "")."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found = [(node.module, alias.name) for alias in node.names]
        else:
            found = [(alias.name, "") for alias in node.names] if isinstance(node, ast.Import) else []
        yield from ((module, name) for module, name in found if module.partition(".")[0] == "vertebra")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_is_there(path):
    for module, name in imported(path):
        found = importlib.import_module(module)
        assert not name or hasattr(found, name) or find_spec(f"{module}.{name}"), f"{module} has no {name}"
