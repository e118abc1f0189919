"""Is the int8 file as good as the float one? On photos with labels: accuracy. On photos without: agreement."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePath

import numpy as np

from vertebra.errors import UsageError, nearest

from ._graph import Array
from ._photos import Pixels

MIN_PHOTOS = 20
_MAX_RANGES = 128  # photos for ranges and rounding; more change little
_WNID = re.compile(r"n\d{8}(?=_|$)")


@dataclass(frozen=True)
class Calibration:
    """Photos to quantise by: pixels (N, H, W, 3) at the card's size, and for each the classes that are right.

    `labels` is None where they are not known. A photo can have more than one right class because ImageNet has two
    classes of one name ("crane").
    """

    images: Pixels
    labels: Sequence[frozenset[int]] | None = None

    def split(self) -> tuple[Pixels, Calibration]:
        """The photos for ranges and rounding, and those kept apart to judge by: every fourth, or more.

        Raises:
            UsageError: there are too few photos.
        """
        count = len(self.images)
        check_count(count)
        order = np.arange(count)
        judged = order % 4 == 3
        if (~judged).sum() > _MAX_RANGES:
            chosen = np.unique(np.linspace(0, count - 1, _MAX_RANGES).astype(int))
            judged = ~np.isin(order, chosen)
        labels = None if self.labels is None else [self.labels[i] for i in np.flatnonzero(judged).tolist()]
        return self.images[~judged], Calibration(self.images[judged], labels)


def check_count(photos: int) -> None:
    """Raise a `UsageError` where there are too few photos to quantise by."""
    if photos < MIN_PHOTOS:
        raise UsageError(
            f"{photos} photos are too few to quantise by: at least {MIN_PHOTOS} are needed, and 100 or more of the "
            "kind that the network will see are better. Add photos to the calibration folder."
        )


@dataclass(frozen=True)
class Verdict:
    """What int8 costs on the photos kept apart."""

    photos: int
    measure: str  # "accuracy" or "agreement"
    float_score: float  # %; 100 where the measure is agreement with float
    int8_score: float  # %
    expected_drop: float  # points of accuracy that are lost if the float network's own probabilities are right
    divergence: float  # mean KL divergence of the probabilities, nats

    @property
    def drop(self) -> float:
        """Points of accuracy lost. Without labels, the loss to expect: a change of mind between near equals is none."""
        return self.float_score - self.int8_score if self.measure == "accuracy" else self.expected_drop

    def allows(self, max_drop: float) -> bool:
        """Whether at most `max_drop` points are lost.

        One photo more or less is below what a few photos can resolve: then the expected loss decides.
        """
        return self.drop <= max_drop + 1e-9 or (
            self.drop <= 100 / self.photos + 1e-9 and self.expected_drop <= max_drop + 1e-9
        )


def judge(expected: Array, found: Array, labels: Sequence[frozenset[int]] | None) -> Verdict:
    """Compare probabilities (N, K) of float and int8 on the same photos."""
    rows = np.arange(len(expected))
    ours, theirs = found.argmax(1), expected.argmax(1)
    loss = (expected[rows, theirs] - expected[rows, ours]).mean() * 100
    p, q = (np.clip(values.astype(np.float64), 1e-9, 1) for values in (expected, found))
    divergence = (p * np.log(p / q)).sum(1).mean()
    if labels is None:
        scores = 100.0, float((ours == theirs).mean() * 100)
    else:
        scores = _accuracy(theirs, labels), _accuracy(ours, labels)
    measure = "agreement" if labels is None else "accuracy"
    return Verdict(len(expected), measure, *scores, float(loss), float(divergence))


def _accuracy(choices: Array, labels: Sequence[frozenset[int]]) -> float:
    return 100 * sum(int(choice) in right for choice, right in zip(choices, labels, strict=True)) / len(labels)


def check_order(predicted: Array, labels: Sequence[frozenset[int]], classes: Sequence[str] | None) -> None:
    """Tell a network whose class names are in the wrong order from one that is merely bad.

    If nearly all photos of a class get one answer, and each class another, then the network knows the classes and the
    names are mixed up.

    Raises:
        UsageError: they are.
    """
    answers: dict[frozenset[int], list[int]] = {}
    for right, choice in zip(labels, predicted, strict=True):
        answers.setdefault(right, []).append(int(choice))
    favourites = {right: max(set(found), key=found.count) for right, found in answers.items()}
    consistent = sum(found.count(favourites[right]) for right, found in answers.items()) / len(labels)
    wrong = {right: choice for right, choice in favourites.items() if choice not in right}
    one_each = len(set(favourites.values())) == len(favourites)
    enough = len(labels) >= 3 * len(answers) and len(answers) > 1
    if enough and one_each and consistent > 0.8 and len(wrong) > len(favourites) / 2:
        right, choice = next(iter(wrong.items()))
        names = [str(i) if classes is None else classes[i] for i in (min(right), choice)]
        raise UsageError(
            f"the classes seem to be in another order than the network's: photos in the folder {names[0]!r} are "
            f"nearly all taken for {names[1]!r}. Give the classes in the order of the training (--classes)."
        )


def labels_of(paths: Sequence[PurePath], classes: Sequence[str] | None, count: int) -> list[frozenset[int]] | None:
    """The right classes of photos, from their paths inside the folder; None where these tell nothing.

    A photo's class is the folder that it lies in: by name, by number, or by ImageNet's ids (n01440764). Photos named
    as ImageNet's are (n01440764_36.JPEG) need no folders.

    Raises:
        UsageError: some folders name classes, and others do not.
    """
    known = _known_classes(classes, count)
    keys = [_key(path, known) for path in paths]
    missing = sorted({key for key in keys if key not in known})
    if len(missing) == len(set(keys)):
        return None
    if missing:
        raise UsageError(
            f"the folder {missing[0]!r} is no class of the network"
            f"{f', nor are {len(missing) - 1} others' if len(missing) > 1 else ''}, while other folders are. "
            f"{nearest(missing[0], known)} Rename it, or put all photos into one folder to do without labels."
        )
    return [known[key] for key in keys]


def _key(path: PurePath, known: Mapping[str, frozenset[int]]) -> str:
    folder = _plain(path.parts[-2]) if len(path.parts) > 1 else ""
    wnid = _WNID.match(path.name)
    return wnid[0] if folder not in known and wnid and wnid[0] in known else folder


def _known_classes(classes: Sequence[str] | None, count: int) -> dict[str, frozenset[int]]:
    known = {str(i): frozenset([i]) for i in range(count)}
    if classes is not None:
        for i, name in enumerate(classes):
            known[_plain(name)] = known.get(_plain(name), frozenset()) | {i} if not name.isdigit() else frozenset([i])
        if _is_imagenet(classes):
            known |= {wnid: frozenset([i]) for i, wnid in enumerate(_wnids())}
    return known


def _plain(name: str) -> str:
    """`Golden_Retriever` and `golden retriever` are one."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _is_imagenet(classes: Sequence[str]) -> bool:
    from vertebra.models._weights import imagenet_classes

    return list(classes) == imagenet_classes()


@cache
def _wnids() -> list[str]:
    """WordNet ids of the 1,000 classes of ImageNet-1K, whose sorted order is that of the logits."""
    return files(__package__).joinpath("imagenet_wnids.txt").read_text(encoding="ascii").split()
