"""The pages of the book and the guides, their catalogues, and the modules of docs/."""

import importlib
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="session")
def docs_module():
    """Import a module of docs/ or of docs/_extensions by name."""
    folders = [str(DOCS), str(DOCS / "_extensions")]
    sys.path[:0] = folders
    yield importlib.import_module
    for folder in folders:
        sys.path.remove(folder)
