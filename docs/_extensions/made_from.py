"""What pages are made from besides their own text: where that has changed, a second build reads them again.

Sphinx knows of included source, translations and documented modules; the rest is told here. The pages of an earlier
build whose text is gone are removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

EXTENSIONS = Path(__file__).parent
ROOT = EXTENSIONS.parents[1]
PACKAGE = "src/vertebra"
# By what stands in the text of a page: the files that its numbers, tables and pictures are taken from.
FILES = {
    "{n}`": ("bench/results/*.json", "docs/numbers/**/*.json", f"{PACKAGE}/anatomy/*.toml"),
    "{experiment}": ("bench/results/lab.json",),
    ":run:": (f"{PACKAGE}/**/*.py",),
    "{fields}": (f"{PACKAGE}/**/*.py",),
    "{commands}": (f"{PACKAGE}/**/*.py",),
    "{http-api}": (f"{PACKAGE}/serve/**/*.py",),
}


def files_of(text: str) -> set[Path]:
    """The files that a page of this text is made from."""
    patterns = {pattern for mark, patterns in FILES.items() if mark in text for pattern in patterns}
    return {path for pattern in patterns for path in ROOT.glob(pattern)}


def note(app: Sphinx, page: str, source: list[str]) -> None:
    """Tell Sphinx of the files that a page is made from."""
    for path in files_of(source[0]):
        app.env.note_dependency(path)


def digest(files: Iterable[Path]) -> str:
    """Of the contents of files."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


def remove(app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Remove what was built of pages whose text is gone."""
    for page in removed if app.builder.format == "html" else ():
        Path(app.builder.get_outfilename(page)).unlink(missing_ok=True)
    return []


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", note)
    app.connect("env-get-outdated", remove)
    # A setting that has changed makes Sphinx read all pages: here, what writes numbers, verdicts and pictures.
    made_by = [*EXTENSIONS.glob("*.py"), *(ROOT / PACKAGE / "lab").rglob("*.py"), *ROOT.glob(f"{PACKAGE}/lab/*.toml")]
    app.add_config_value("made_by", digest(made_by), "env", str)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
