"""Which photos are for training, which for validation and which for testing.

A photo's split follows from its content and the seed alone: adding or renaming photos moves no other one, a copy goes
where its original went, and a classifier trained again on more photos is tested on the same ones. Photos that show the
same picture stay together: one of them decides for all.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from vertebra.errors import UsageError


@dataclass(frozen=True)
class Shares:
    """The share of every class that is for validation (val) and that is only ever tested on (test)."""

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
    """The split of each photo: train, val or test.

    Each class is split in the same shares, by a pseudo-random number that each photo's hash and the seed give. A class
    of a few photos may get none to test on; one that would have none to train on gets that with the largest number.

    Args:
        hashes: SHA-256 of the photos' content, in hex.
        labels: their classes.
        given: splits that the data set brings; None where it does not say. Photos without one are split among train
            and those that the data set does not bring; one that shows the same picture as a photo that has one goes
            with it. A given split is never changed, except that train may give some to val.
        duplicates: groups of places in `hashes` that show the same picture.
        shares: of the photos without a given split.
        seed: another seed gives other splits.
        alike: the former name of `duplicates`, for one version.
    """
    duplicates = duplicates or alike
    shares = shares or Shares()
    given = given if given is not None else [None] * len(hashes)
    brought = set(given)
    test = 0.0 if "test" in brought else shares.test
    # What the data set keeps for training may still have to give some for validation.
    val = 0.0 if "val" in brought else shares.val
    deciding = _deciding(hashes, duplicates)
    given = _given_together(given, duplicates)
    found: list[str] = []
    for digest, split in zip(deciding, given, strict=True):
        number = _uniform(digest, seed)
        if split in ("val", "test"):
            found.append(split)
        elif split == "train":
            # Another number: that split may follow from this one, and would have left none below the share.
            found.append("val" if _uniform(f"val {digest}", seed) < val else "train")
        else:
            found.append("test" if number < test else "val" if number < test + val else "train")
    for label in sorted(set(labels)):
        own = [i for i, other in enumerate(labels) if other == label]
        if "train" in {found[i] for i in own}:
            continue
        if movable := [i for i in own if given[i] in (None, "train")]:
            chosen = deciding[max(movable, key=lambda i: _uniform(deciding[i], seed))]
            for i, digest in enumerate(deciding):
                if digest == chosen and given[i] in (None, "train"):
                    found[i] = "train"
    return found


def _deciding(hashes: Sequence[str], duplicates: Sequence[Sequence[int]]) -> list[str]:
    """The hash that decides the split of each photo: the least of its group."""
    deciding = list(hashes)
    for group in duplicates:
        least = min(hashes[place] for place in group)
        for place in group:
            deciding[place] = least
    return deciding


def _given_together(given: Sequence[str | None], duplicates: Sequence[Sequence[int]]) -> list[str | None]:
    """The given splits, also for photos without one that show the same picture as one that has it."""
    together = list(given)
    for group in duplicates:
        own = {given[place] for place in group}
        # Where the data set has a picture in several already, one more in train gives nothing away.
        split = next((name for name in ("train", "val", "test") if name in own), None)
        for place in group:
            together[place] = given[place] or split
    return together


def assign_folds(
    hashes: Sequence[str],
    duplicates: Sequence[Sequence[int]],
    *,
    folds: int,
    seed: int = 0,
    labels: Sequence[str | int] | None = None,
) -> list[int]:
    """The part, from 0 to `folds` - 1, that each photo is held out with; photos of the same picture go together.

    A class whose different photos all fall into one part would have none to learn from while they are held out: the
    one with the largest number goes into the next part.

    Args:
        hashes: SHA-256 of the photos' content, in hex.
        duplicates: groups of places in `hashes` that show the same picture.
        folds: number of parts.
        seed: another seed gives other folds.
        labels: their classes; None: all of one.
    """
    numbers = [_uniform(digest, seed) for digest in _deciding(hashes, duplicates)]
    if len(hashes) >= 20 * folds:
        fold_of = {number: int(number * folds) for number in numbers}
    else:
        # So few that chance could leave a part empty: the parts are dealt out in the order of the numbers.
        fold_of = {number: place % folds for place, number in enumerate(sorted(set(numbers)))}
    of_class: dict[str | int, set[float]] = defaultdict(set)
    for number, label in zip(numbers, labels if labels is not None else [""] * len(numbers), strict=True):
        of_class[label].add(number)
    for label in sorted(of_class, key=str):
        own = of_class[label]
        if len(own) > 1 and len({fold_of[number] for number in own}) == 1:
            fold_of[max(own)] = (fold_of[max(own)] + 1) % folds
    return [fold_of[number] for number in numbers]


def _uniform(digest: str, seed: int) -> float:
    """A pseudo-random number from 0 to 1 that content and seed decide."""
    drawn = hashlib.sha256(f"{seed}:{digest}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") / 2**64
