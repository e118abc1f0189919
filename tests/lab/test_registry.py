"""Experiments by number and name."""

import pytest

from vertebra.errors import UsageError
from vertebra.lab import registry
from vertebra.lab.registry import Entry, entries, find, find_one


@pytest.fixture
def five(monkeypatch, tmp_path):
    names = {
        "1": "vgg-parameters",
        "2": "overfitting",
        "4a": "parallel-branches",
        "4b": "global-pooling",
        "8": "gradients",
    }
    found = tuple(Entry(number, name, tmp_path) for number, name in names.items())
    monkeypatch.setattr(registry, "entries", lambda: found)


def numbers(*names):
    return [entry.number for entry in find(names)]


def test_by_number_and_name_in_the_order_given(five):
    assert numbers("gradients", "1", "04a", 2) == ["8", "1", "4a", "2"]
    assert numbers("VGG_Parameters", " 8 ") == ["1", "8"]
    assert numbers("all") == ["1", "2", "4a", "4b", "8"]


def test_a_number_of_two_parts_is_both_of_them(five):
    assert numbers("4") == ["4a", "4b"]
    with pytest.raises(UsageError, match=r"4 is 4a \(parallel-branches\) and 4b \(global-pooling\). Give one of them."):
        find_one(4)
    assert find_one("4b").name == "global-pooling"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("gradient",), "there is no experiment 'gradient'; numbers are 1 to 8. Did you mean 'gradients'?"),
        (("99",), "there is no experiment '99'; numbers are 1 to 8. See: vertebra lab list"),
        (("0",), "there is no experiment '0'"),
        (("",), "there is no experiment ''"),
        (("-1",), "there is no experiment '-1'"),
        (("4c",), "there is no experiment '4c'"),
        (("x" * 500,), "there is no experiment 'xxx"),
        (("1", "vgg-parameters"), "experiment 1 (vgg-parameters) is named twice: 1 and vgg-parameters."),
        (("4", "4b"), "experiment 4b (global-pooling) is named twice: 4 and 4b."),
        (("all", "1"), "'all' stands beside '1'. Give it alone, or names."),
        (("2", "all"), "'all' stands beside '2'."),
        (("all", "all"), "'all' stands beside 'all'."),
    ],
)
def test_what_is_wrong_with_names(five, names, message):
    with pytest.raises(UsageError) as caught:
        find(names)
    assert str(caught.value).startswith(message) and len(str(caught.value)) < 200


def test_files_are_named_so_that_they_sort():
    assert [entry.stem for entry in entries()] == sorted(entry.stem for entry in entries())
    assert entries()[0].stem == "01-vgg-parameters"
