"""What a kept result depends on."""

from pathlib import Path

import pytest

import vertebra
from vertebra.lab import result_cache
from vertebra.lab.registry import entries
from vertebra.lab.result_cache import code_digest, code_files, keep, kept

SOURCE = Path(vertebra.__file__).parent

FILES = {
    "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack import far as far\n",
    "far.py": "",
    "one.py": "from pack.room import first\nimport pack.deep.inner\n",
    "two.py": "def f():\n    from .room import second\n",
    "room/__init__.py": "from .a import first as first\nfrom .b import other as second\n",
    "room/a.py": "first = open('table.json')\n",
    "room/b.py": "from . import c\nother = 2\n",
    "room/c.py": "third = 3\n",
    "room/table.json": "{}",
    "room/unused.json": "{}",
    "deep/__init__.py": "from .registered import *\n",
    "deep/inner.py": "",
    "deep/registered.py": "",
}


@pytest.fixture
def digests(tmp_path):
    """The digests of modules one and two after a change of the file of that name."""
    for name, text in FILES.items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def after(changed=None):
        if changed is not None:
            path = tmp_path / "pack" / changed
            path.write_text(path.read_text() + "\n")
        result_cache._parsed.cache_clear()
        return [code_digest(tmp_path / "pack" / f"{name}.py") for name in ("one", "two")]

    return after


@pytest.mark.parametrize(
    ("changed", "differ"),
    [
        ("one.py", [True, False]),
        ("room/a.py", [True, False]),
        ("room/table.json", [True, False]),
        ("room/unused.json", [False, False]),
        ("room/b.py", [False, True]),
        ("room/c.py", [False, True]),
        ("deep/inner.py", [True, False]),
        ("deep/registered.py", [True, False]),  # what a package imports by * takes part unasked
        ("room/__init__.py", [False, False]),
        ("far.py", [False, False]),
    ],
)
def test_a_change_counts_for_those_that_use_it(digests, changed, differ):
    before = digests()
    assert digests() == before
    assert [a != b for a, b in zip(digests(changed), before, strict=True)] == differ


def test_networks_count_for_what_builds_them_and_the_page_for_nothing():
    used = code_files(entries()[0].path)
    assert {SOURCE / name for name in ("models/vgg.py", "graph/cost.py", "lab/experiment.py")} <= used
    assert not used & {SOURCE / name for name in ("lab/page.py", "lab/result.py", "cli/lab.py", "serve/server.py")}


def test_another_key_has_another_result_and_a_damaged_one_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path))
    keep("one", {"seeds": 3}, {"value": 1})
    keep("one", {"seeds": 5}, {"value": 2})
    assert kept("one", {"seeds": 3}) == {"value": 1} and kept("one", {"seeds": 4}) is None
    assert kept("two", {"seeds": 3}) is None
    for path in (tmp_path / "lab").iterdir():
        path.write_bytes(path.read_bytes()[:-9] + b"7" + path.read_bytes()[-8:])
    with pytest.warns(match="damaged"):
        assert kept("one", {"seeds": 3}) is None
