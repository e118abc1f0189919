"""What the suite says of tests that were skipped."""

import os
import re
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest

def test_good():
    pass

def test_without_a_gpu():
    pytest.skip("needs a GPU")

{more}
"""
ORACLE = """
def test_against_an_oracle():
    pytest.skip("no oracle (apt-get install oracle)")
"""


@pytest.mark.parametrize(
    ("more", "ci", "code", "last"),
    [
        ("", "true", 0, None),
        (ORACLE, "true", 1, None),
        ("", "", 0, "Not tested here: 1 × needs a GPU"),
        (ORACLE, "", 0, "Not tested here: 1 × needs a GPU; 1 × no oracle (apt-get install oracle)"),
    ],
)
def test_a_skipped_oracle_fails_where_all_was_to_be_installed_and_is_told_elsewhere(
    pytester, monkeypatch, more, ci, code, last
):
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(TESTS.format(more=more))
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    # In this process modules would be dropped that it imports first, and others of this process hold on to.
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == code
    assert ("no oracle" in result.stderr.str()) == (code == 1)
    assert last is None or last in result.outlines
    assert last is not None or not any("Not tested" in line for line in result.outlines)


def test_what_takes_long_to_import_is_not_imported_by_collecting_tests():
    """`needs` of installed.py asks whether it is there; each process of the suite collects all tests."""
    slow = r"""^(\w+ = )?pytest\.importorskip\(["'](moto|ray|schemathesis|torchlens)\b"""
    paths = sorted(Path(__file__).parent.rglob("test_*.py"))
    assert len(paths) > 200
    assert [path.name for path in paths if re.search(slow, path.read_text("utf-8"), flags=re.MULTILINE)] == []
