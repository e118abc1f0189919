"""Every experiment keeps to one form: its claim, its rule, its picture, its length."""

import ast
import inspect
import re

import pytest

from vertebra.lab.experiment import Kind, takes_networks
from vertebra.lab.registry import entries

ENTRIES = pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
MAX_LINES = 130


def test_the_claims_are_numbered_without_gaps_or_twins():
    numbers = [entry.number for entry in entries()]
    assert len(set(numbers)) == len(numbers)
    assert len({entry.name for entry in entries()}) == len(numbers)


@ENTRIES
def test_a_module_has_all_parts_in_order_and_is_short(entry):
    text = entry.path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES, "an experiment is read in one sitting"
    top = [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    assert [name for name in top if name in ("measure", "judge", "draw")] == ["measure", "judge", "draw"]


@ENTRIES
def test_a_claim_says_all_that_a_reader_needs(entry):
    claim = entry.load().CLAIM
    for text in (claim.claim, claim.should_hold, claim.rule, claim.title, claim.caption, claim.source):
        assert text.strip() == text and text
    assert re.search(r"[ぁ-ん一-龥]", claim.claim_ja) and claim.claim_ja.endswith("。")
    assert claim.claim.endswith(".") and claim.rule.endswith(".") and claim.caption.endswith(".")
    assert re.match(r"(article|paper|code)", claim.stated_by)
    assert claim.decided_by and claim.seconds > 0
    random = {Kind.INIT, Kind.TRAINING} & set(claim.decided_by)
    assert (claim.seeds >= 3) if random else (claim.seeds == 0 or claim.seeds >= 3)


@ENTRIES
def test_a_rule_is_a_pure_function_of_the_measurement(entry):
    """It takes nothing else, and reads neither the expected numbers nor the clock."""
    module = entry.load()
    assert list(inspect.signature(module.judge).parameters) == ["measured"]
    source = inspect.getsource(module.judge)
    assert "CLAIM" not in source and "expected" not in source
    assert takes_networks(module) is None or all(
        hasattr(module, f"{part}_networks") for part in ("measure", "judge", "draw")
    )
