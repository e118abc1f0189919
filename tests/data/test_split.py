"""Where a photo goes follows from its content and the seed."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertebra.data import Shares, assign_splits
from vertebra.data._split import assign_folds
from vertebra.errors import UsageError


def hashes(count, prefix=""):
    return [hashlib.sha256(f"{prefix}{i}".encode()).hexdigest() for i in range(count)]


def test_shares_hold_in_every_class():
    digests = hashes(4000)
    labels = [str(i % 4) for i in range(4000)]
    found = assign_splits(digests, labels, shares=Shares(0.1, 0.2))
    for label in "0123":
        counts = Counter(split for split, own in zip(found, labels, strict=True) if own == label)
        assert counts["test"] == pytest.approx(200, abs=40)
        assert counts["val"] == pytest.approx(100, abs=30)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 2)), max_size=40), st.integers(0, 5))
def test_added_photos_move_no_other(added, seed):
    first = hashes(60)
    labels = [str(i % 3) for i in range(60)]
    before = assign_splits(first, labels, seed=seed)
    more = [hashlib.sha256(f"new {i}".encode()).hexdigest() for i, _ in added]
    after = assign_splits(more + first, [str(label) for _, label in added] + labels, seed=seed)
    assert after[len(more) :] == before


def test_a_copy_goes_where_its_original_went_and_a_seed_decides():
    digests = hashes(100)
    found = assign_splits(digests + digests, ["a"] * 200)
    assert found[:100] == found[100:]
    assert assign_splits(digests, ["a"] * 100, seed=1) != found[:100]


def test_splits_that_the_data_brings_stay():
    digests = hashes(300)
    given_splits = ["train"] * 200 + ["test"] * 100
    found = assign_splits(digests, ["a"] * 300, given_splits)
    assert found[200:] == ["test"] * 100
    assert set(found[:200]) == {"train", "val"}  # something must choose the settings
    brought = ["train"] * 200 + ["val"] * 50 + ["test"] * 50
    assert assign_splits(digests, ["a"] * 300, brought) == brought
    only_val = ["train"] * 200 + ["val"] * 100
    assert assign_splits(digests, ["a"] * 300, only_val) == only_val
    partly = assign_splits(digests, ["a"] * 300, [None] * 200 + ["val"] * 100)
    assert set(partly[:200]) == {"train", "test"}


def test_every_class_is_trained():
    for seed in range(30):
        found = assign_splits(hashes(12), [str(i // 2) for i in range(12)], shares=Shares(0.3, 0.6), seed=seed)
        assert all("train" in found[2 * i : 2 * i + 2] for i in range(6))
    # Not against what the data set says.
    assert assign_splits(hashes(2), ["a", "b"], ["train", "test"], shares=Shares(0)) == ["train", "test"]


@pytest.mark.parametrize("values", [(-0.1, 0.1), (0.1, 1.0), (0.5, 0.5), (float("nan"), 0.1)])
def test_shares_that_leave_nothing(values):
    with pytest.raises(UsageError, match=r"share|leave nothing"):
        Shares(*values)


def test_a_split_of_ones_own_can_be_split_again():
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(400)]
    first = assign_splits(digests, ["a"] * 400, shares=Shares(val=0.0, test=0.15))
    again = assign_splits(digests, ["a"] * 400, first)
    assert 20 < again.count("val") < 60
    assert [split == "test" for split in again] == [split == "test" for split in first]


def test_parts_of_many_photos_are_even_and_do_not_depend_on_the_others():
    digests = hashes(400)
    found = assign_folds(digests, (), folds=5)
    assert sorted(Counter(found)) == [0, 1, 2, 3, 4]
    assert all(count == pytest.approx(80, abs=30) for count in Counter(found).values())
    assert assign_folds(digests[:150], (), folds=5) == found[:150]
    assert assign_folds(digests, (), folds=5, seed=0) == found != assign_folds(digests, (), folds=5, seed=1)


def test_parts_of_few_photos_are_dealt_out():
    digests = hashes(23)
    found = assign_folds(digests, [(3, 4, 9)], folds=5)
    assert sorted(Counter(found).values()) in ([4, 4, 4, 4, 7], [4, 4, 4, 5, 6])
    assert assign_folds(hashes(99), (), folds=5, seed=2) != assign_folds(hashes(99), (), folds=5, seed=3)
    assert sorted(Counter(assign_folds(hashes(99), (), folds=5)).values()) == [19, 20, 20, 20, 20]


@pytest.mark.parametrize("count", [23, 400])
def test_photos_that_are_alike_are_held_out_together(count):
    digests = hashes(count)
    groups = [(0, 5, 11), (2, 3)]
    found = assign_folds(digests, groups, folds=5)
    for group in groups:
        assert len({found[place] for place in group}) == 1


def test_splits_are_known_by_what_they_say():
    """Names that were read from a table are other objects than those in the code."""
    names = [str(bytearray(name, "ascii"), "ascii") for name in ("train", "val", "test")]
    given_splits = names * 100
    found = assign_splits(hashes(300), ["a"] * 300, given_splits, shares=Shares(val=0.5))
    assert found == given_splits
    without_val = [name if name != "val" else names[0] for name in given_splits]
    found = assign_splits(hashes(300), ["a"] * 300, without_val, shares=Shares(val=0.5))
    assert Counter(found) == {"train": pytest.approx(100, abs=25), "val": pytest.approx(100, abs=25), "test": 100}
    assert found == assign_splits(hashes(300), ["a"] * 300, ["train", "train", "test"] * 100, shares=Shares(val=0.5))


def test_a_class_without_a_photo_to_train_on_takes_the_nearest_and_no_other():
    digests = hashes(200)
    alone = assign_splits(digests, ["a"] * 200)
    others = hashes(200, "b")
    tested = [
        digest for digest, split in zip(others, assign_splits(others, ["b"] * 200), strict=True) if split == "test"
    ]
    labels = ["a"] * 200 + ["b"] * 3
    found = assign_splits(digests + tested[:3], labels)
    assert found[:200] == alone
    assert sorted(found[200:]) == ["test", "test", "train"]


def test_a_data_set_that_brings_its_test_photos_gets_no_more():
    digests = hashes(300)
    given_splits = ["test"] * 10 + [None] * 290
    found = Counter(assign_splits(digests, ["a"] * 300, given_splits, shares=Shares(val=0.2, test=0.3)))
    assert found["test"] == 10 and found["val"] == pytest.approx(58, abs=25)
    found = Counter(assign_splits(digests, ["a"] * 300, ["val"] * 10 + [None] * 290, shares=Shares(0.2, 0.3)))
    assert found["val"] == 10 and found["test"] == pytest.approx(87, abs=30)
