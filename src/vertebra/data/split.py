"""Assigns each photo to training, validation or test, and to a fold of cross-validation.

The split is a hash of the photo's content and the seed: adding or renaming photos moves no other photo.
Duplicates and near-duplicates (found by `duplicates`) stay together: the least SHA-256 of their group decides for all.
Splits of the data set itself are never changed: duplicates across them are reported, and refused by `Audit.check`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from vertebra.errors import UsageError


@dataclass(frozen=True)
class Shares:
    """The shares of every class for validation and for testing; training uses these defaults."""

    val: float = 0.1
    test: float = 0.15

    def __post_init__(self) -> None:
        for name, value in (("val", self.val), ("test", self.test)):
            if not 0 <= value < 1:
                raise UsageError(f"the share {name} is {value}; it must be at least 0 and below 1.")
        if self.val + self.test >= 1:
            raise UsageError(f"val {self.val} and test {self.test} together leave nothing to train on.")


def assign_splits(
    hashes: Sequence[str],
    labels: Sequence[str],
    given: Sequence[str | None] | None = None,
    *,
    duplicates: Sequence[Sequence[int]] = (),
    shares: Shares | None = None,
    seed: int = 0,
    alike: Sequence[Sequence[int]] = (),
) -> list[str]:
    """Return the split of each photo: train, val or test.

    A pseudo-random number of each photo, from its hash and the seed, is compared with the shares. A small class may get
    no test photos; a class without training photos gets the one with the largest number.

    Args:
        hashes: SHA-256 of the photos' content, in hex.
        labels: their classes.
        given: the data set's own splits, or None. Photos without one are split among train and the splits that the
            data set does not have, or join the split of a duplicate. A given split is never changed, except that val
            is taken from train if the data set has none.
        duplicates: groups of indices in `hashes` whose photos show the same picture.
        shares: for the photos without a given split.
        seed: another seed gives other splits.
        alike: deprecated alias of `duplicates`, for one version.
    """
    duplicates = duplicates or alike
    shares = shares or Shares()
    given = given if given is not None else [None] * len(hashes)
    given_names = set(given)
    test = 0.0 if "test" in given_names else shares.test
    val = 0.0 if "val" in given_names else shares.val
    group_hashes = _group_hashes(hashes, duplicates)
    given = _propagate_given_splits(given, duplicates)
    splits: list[str] = []
    for digest, split in zip(group_hashes, given, strict=True):
        number = _uniform(digest, seed)
        if split in ("val", "test"):
            splits.append(split)
        elif split == "train":
            # A second number: if this function made the given split, all first numbers in train are above the shares.
            splits.append("val" if _uniform(f"val {digest}", seed) < val else "train")
        else:
            splits.append("test" if number < test else "val" if number < test + val else "train")
    for label in sorted(set(labels)):
        own = [i for i, other in enumerate(labels) if other == label]
        if "train" in {splits[i] for i in own}:
            continue
        if movable := [i for i in own if given[i] in (None, "train")]:
            chosen = group_hashes[max(movable, key=lambda i: _uniform(group_hashes[i], seed))]
            for i, digest in enumerate(group_hashes):
                if digest == chosen and given[i] in (None, "train"):
                    splits[i] = "train"
    return splits


def _group_hashes(hashes: Sequence[str], duplicates: Sequence[Sequence[int]]) -> list[str]:
    """Return for each photo the hash that decides its split: the least of its duplicate group."""
    group_hashes = list(hashes)
    for group in duplicates:
        least = min(hashes[index] for index in group)
        for index in group:
            group_hashes[index] = least
    return group_hashes


def _propagate_given_splits(given: Sequence[str | None], duplicates: Sequence[Sequence[int]]) -> list[str | None]:
    """Give photos without a split that of their duplicates."""
    spread = list(given)
    for group in duplicates:
        own = {given[index] for index in group}
        # If the data set itself has the picture in several splits, one more photo of it in train leaks nothing new.
        split = next((name for name in ("train", "val", "test") if name in own), None)
        for index in group:
            spread[index] = given[index] or split
    return spread


def assign_folds(
    hashes: Sequence[str],
    duplicates: Sequence[Sequence[int]],
    *,
    folds: int,
    seed: int = 0,
    labels: Sequence[str | int] | None = None,
) -> list[int]:
    """Return the fold of each photo, 0 … `folds` - 1; the photos of a duplicate group are in one fold.

    A class with all its photos in one fold could not be trained on while that is held out: the photo with the largest
    number moves to the next fold.

    Args:
        hashes: SHA-256 of the photos' content, in hex.
        duplicates: groups of indices in `hashes` whose photos show the same picture.
        folds: number of folds.
        seed: another seed gives other folds.
        labels: their classes; None: one class.
    """
    numbers = [_uniform(digest, seed) for digest in _group_hashes(hashes, duplicates)]
    if len(hashes) >= 20 * folds:
        fold_of = {number: int(number * folds) for number in numbers}
    else:
        # With few photos a fold could be empty by chance: assign folds in turn, in the order of the numbers.
        fold_of = {number: index % folds for index, number in enumerate(sorted(set(numbers)))}
    of_class: dict[str | int, set[float]] = defaultdict(set)
    for number, label in zip(numbers, labels if labels is not None else [""] * len(numbers), strict=True):
        of_class[label].add(number)
    for label in sorted(of_class, key=str):
        own = of_class[label]
        if len(own) > 1 and len({fold_of[number] for number in own}) == 1:
            fold_of[max(own)] = (fold_of[max(own)] + 1) % folds
    return [fold_of[number] for number in numbers]


def _uniform(digest: str, seed: int) -> float:
    """Return a pseudo-random number in [0, 1) from content and seed."""
    digest_bytes = hashlib.sha256(f"{seed}:{digest}".encode()).digest()
    return int.from_bytes(digest_bytes[:8], "big") / 2**64
