"""Where a photo goes follows from its content and the seed."""

import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertebra.data import Shares, assign_folds, assign_splits
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
        assert len({found[index] for index in group}) == 1


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


def test_photos_of_one_picture_stay_together_and_shares_hold():
    """Each photo with three others of the same picture, in any place of the list."""
    digests = hashes(2000)
    duplicates = [[i, i + 500, i + 1000, i + 1500] for i in range(500)]
    found = assign_splits(digests, ["a"] * 2000, duplicates=duplicates, shares=Shares(0.1, 0.2))
    assert all(len({found[index] for index in group}) == 1 for group in duplicates)
    assert found.count("test") == pytest.approx(400, abs=120)  # not one chance for each of the four
    folds = assign_folds(digests, duplicates, folds=5)
    assert all(len({folds[index] for index in group}) == 1 for group in duplicates)
    assert all(folds.count(fold) == pytest.approx(400, abs=130) for fold in range(5))
    few = assign_folds(digests[:8], [[0, 7], [1, 2, 3]], folds=3)
    assert few[0] == few[7]
    assert len({few[1], few[2], few[3]}) == 1
    assert set(few) == {0, 1, 2}


def test_the_least_hash_of_a_group_decides_for_all():
    digests = hashes(300)
    alone = assign_splits(digests, ["a"] * 300)
    for other in range(1, 300):
        found = assign_splits(digests, ["a"] * 300, duplicates=[[0, other]])
        least = min((0, other), key=lambda place: digests[place])
        assert found[0] == found[other] == alone[least]
        assert [s for i, s in enumerate(found) if i not in (0, other)] == [
            s for i, s in enumerate(alone) if i not in (0, other)
        ]


def test_given_splits_are_kept_and_take_their_likes_along():
    digests = hashes(200)
    given_splits = ["test", None, "train", None, "val", None, None] + [None] * 193
    duplicates = [[0, 1], [2, 3], [4, 5], [6, 7]]
    for seed in range(5):
        found = assign_splits(digests, ["a"] * 200, given_splits, duplicates=duplicates, seed=seed)
        assert found[:6] == ["test", "test", "train", "train", "val", "val"]
        assert found[6] == found[7]
    # In both already: the data set's own leak stays, and is not moved in silence.
    both = assign_splits(
        digests[:4], ["a"] * 4, ["train", "test", None, "train"], duplicates=[[0, 1, 2]], shares=Shares(0, 0)
    )
    assert both == ["train", "test", "train", "train"]


def test_a_class_that_would_have_none_to_train_on_gets_whole_groups():
    for seed in range(20):
        digests = hashes(6, f"{seed} ")
        found = assign_splits(
            digests,
            ["a", "a", "b", "b", "b", "b"],
            duplicates=[[0, 1], [2, 3], [4, 5]],
            shares=Shares(0.45, 0.5),
            seed=seed,
        )
        assert found[0] == found[1] == "train"
        assert found[2] == found[3]
        assert found[4] == found[5]
        assert "train" in found[2:]


def test_train_photos_that_go_to_val_go_with_their_likes():
    digests = hashes(400)
    duplicates = [[i, i + 200] for i in range(200)]
    found = assign_splits(digests, ["a"] * 400, ["train"] * 400, duplicates=duplicates)
    assert found[:200] == found[200:]
    assert {"train", "val"} <= set(found)


@pytest.mark.parametrize("others", [8, 200])
def test_a_class_of_a_few_photos_is_not_held_out_as_a_whole(others):
    """Else nothing is left to learn it from while they are held out."""
    moved = 0
    for seed in range(30):
        digests = hashes(others + 3, f"{seed} ")
        labels = ["many"] * others + ["few"] * 3
        duplicates = [[others, others + 1]]
        found = assign_folds(digests, duplicates, folds=5, seed=seed, labels=labels)
        assert found[-3] == found[-2] != found[-1]
        plain = assign_folds(digests, duplicates, folds=5, seed=seed)
        assert found[:others] == plain[:others]
        moved += found != plain
    assert moved


def test_a_class_of_one_picture_stays_where_it_is():
    digests = hashes(22)
    labels = ["many"] * 20 + ["few"] * 2
    assert assign_folds(digests, [[20, 21]], folds=5, labels=labels) == assign_folds(digests, [[20, 21]], folds=5)
