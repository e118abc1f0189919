"""Labels of ImageNet and its subsets, such as Imagenette: wnids, class indices or class names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from vertebra.errors import UsageError, suggest
from vertebra.imagenet import COUNT, FORMER_NAMES, class_names, wnids
from vertebra.report import percent

from .dataset import DataError
from .label_names import argument, tidy

# Forms of labels, as messages name them.
WNID, WNID_AND_NAME, INDEX, NAME = "wnid", "wnid and name", "class index", "class name"
_WAYS = (WNID, WNID_AND_NAME, INDEX, NAME)
_MIN_TOP1 = 0.1  # below it, indices may be numbered differently; published networks have over 0.5
_WNID = re.compile(r"(n[0-9]{8})(?:[\s_.,-]+(.+))?", re.IGNORECASE)


@dataclass(frozen=True)
class ImageNetLabels:
    """The ImageNet classes of a data set's labels."""

    way: str  # one of `_WAYS`
    indices: dict[str, int]  # label → class
    unknown: list[str]  # labels that match no class
    notes: tuple[str, ...]

    def nearest(self, label: str) -> str:
        """Return a hint for an unknown label: the allowed values, or the class that may be meant."""
        label = tidy(label)
        if _is_index(label):
            labels = [int(other) for other in map(tidy, (*self.indices, *self.unknown)) if _is_index(other)]
            from_one = COUNT in labels and 0 not in labels and max(labels) == COUNT
            why = f" {COUNT} is among these labels and 0 is not, so they seem to be counted from 1." if from_one else ""
            return f"Class indices are from 0 to {COUNT - 1}.{why}"
        if wnid := _WNID.fullmatch(label):  # similar wnids are unrelated classes
            return f"{wnid[1].lower()} is none of the {COUNT:,} wnids of ImageNet-1K."
        if self.indices and self.way != NAME:
            return f"The other labels are each a {self.way}, such as {next(iter(self.indices))!r}."
        return _named_within(label) or suggest(label, class_names())


def match_imagenet(labels: Iterable[str], source: str) -> ImageNetLabels:
    """Match labels to ImageNet classes.

    All labels must have one form: `n01440764`, `n01440764_tench`, `0` or `tench` (spaces may be `_` or `-`).

    Raises:
        UsageError: the labels have several forms, or one names two classes.
        DataError: a name differs from a class only in case, and case distinguishes cardigan from Cardigan.
    """
    read = {label: _read(tidy(label), source) for label in labels}
    by_way: dict[str, list[str]] = {}
    for label, (way, index) in read.items():
        if index is not None:
            by_way.setdefault(way, []).append(label)
    if len(by_way) > 1:
        ways = " and ".join(f"by {way} ({by_way[way][0]!r})" for way in _WAYS if way in by_way)
        raise UsageError(
            f"{source} labels its photos in {len(by_way)} ways: {ways}. Rename the folders, or change the labels of "
            "the table, so that all are written in one way."
        )
    indices = {label: index for label, (_, index) in read.items() if index is not None}
    unknown = [label for label, (_, index) in read.items() if index is None]
    way = next(iter(by_way), read[unknown[0]][0] if unknown else NAME)
    return ImageNetLabels(way, indices, unknown, tuple(_notes(way, indices)))


def _read(label: str, source: str) -> tuple[str, int | None]:
    """Return the form of a label, and its class or None."""
    if _is_index(label):
        return INDEX, int(label) if int(label) < COUNT else None
    if found := _WNID.fullmatch(label):
        index = _indices().get(found[1].lower())
        if found[2] is None:
            return WNID, index
        _check_name(label, index, found[2], source)
        return WNID_AND_NAME, index
    index = _names().get(_plain(label))
    if index is None and (other := _folded().get(_plain(label).casefold())) is not None:
        raise DataError(
            f"{source}: the class {label!r} and the model's {class_names()[other]!r} differ only in case, so they may "
            f"be one class or two. Rename it, or leave it out with --ignore {argument(label)}."
        )
    return NAME, index


def _is_index(label: str) -> bool:
    return label.isascii() and label.isdecimal()


def _named_within(label: str) -> str:
    """Return a hint for a label with all names of a WordNet synset: "goldfish, Carassius auratus"."""
    parts = [_plain(part.strip(" _-")) for part in re.split("[,;|]", label)]
    if len(parts) < 2:
        return ""
    whole = _names().get(" ".join(parts))  # maillot, tank suit: two names, which together are the class's here
    read = (_names().get(part, _folded().get(part.casefold())) for part in parts)
    found = list(dict.fromkeys(index for index in read if index is not None)) if whole is None else [whole]
    if not found:
        return ""
    classes = " and ".join(f"{class_names()[index]!r} ({wnids()[index]})" for index in found)
    if len(found) > 1:
        return f"It has the names of {len(found)} classes, {classes}. Label by the one that is meant, or by wnid."
    return f"It has the name of one class, {classes}. Label by that name alone, or by wnid."


def class_index_notes(labels: Iterable[int], predicted: Iterable[int]) -> tuple[str, ...]:
    """Return a note if the predictions suggest that class indices are numbered differently."""
    pairs = [(int(label), int(found)) for label, found in zip(labels, predicted, strict=True)]
    if not pairs:
        return ()
    top1 = sum(label == found for label, found in pairs) / len(pairs)
    for step, way, why in ((-1, "less", "counted from 1"), (1, "more", "one too low")):
        right = [label for label, found in pairs if label + step == found]
        # Confusions of a single class with its neighbour, which is often similar, are no evidence.
        if len(set(right)) > 1 and len(right) / len(pairs) >= max(_MIN_TOP1, 3 * top1):
            return (
                f"With each class index one {way} top-1 would be {percent(len(right) / len(pairs))} instead of "
                f"{percent(top1)}: these labels seem to be {why}, and indices are from 0.",
            )
    if top1 >= _MIN_TOP1:
        return ()
    different = {label for label, _ in pairs}
    own = len(different) > 1 and different == set(range(len(different))) and len(different) < COUNT
    gapless = (
        f" Those of this data are 0 to {max(different)} without a gap, as if numbered for it alone." if own else ""
    )
    return (
        f"Top-1 is only {percent(top1)}. A class index is taken for a place among the {COUNT:,} sorted wnids, from "
        f"0.{gapless} If they were numbered in another way, no figure here is right: label by wnid or class name.",
    )


def _check_name(label: str, index: int | None, name: str, source: str) -> None:
    """Raise a UsageError for a wnid with the name of another class."""
    other = _names().get(_plain(name))
    # The first word of some names is the name of another class: crane (bird), maillot (tank suit).
    if index is None or other in (None, index) or _plain(class_names()[index]).startswith(_plain(name)):
        return
    raise UsageError(
        f"{source}: {label!r} names two classes: {wnids()[index]} is {class_names()[index]!r}, and {name!r} is "
        f"{wnids()[other or 0]}. Rename it."
    )


def _notes(way: str, indices: dict[str, int]) -> Iterable[str]:
    if not indices:
        return
    first = next(iter(indices))
    example = repr(first) if way == NAME else f"{first!r} is {class_names()[indices[first]]!r}"
    subset = len(set(indices.values()))
    among = "" if subset == COUNT else f", {subset:,} of {COUNT:,}; each photo is classified among all {COUNT:,}"
    yield f"ImageNet classes, labelled by {way} ({example}){among}."
    same: dict[int, list[str]] = {}
    for label, index in indices.items():
        same.setdefault(index, []).append(label)
    for index, spellings in same.items():
        if len(spellings) > 1:
            yield f"{' and '.join(map(repr, spellings))} are one class: {class_names()[index]!r}."
    for other, name in FORMER_NAMES.items():
        spelling = next((label for label, index in indices.items() if class_names()[index] == name), None)
        if way == NAME and spelling is not None:
            yield (
                f"{spelling!r} is taken for {wnids()[indices[spelling]]} and not for {wnids()[other]}, which is "
                f"{class_names()[other]!r} here; in WordNet both are {name!r}."
            )


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.strip()))


@cache
def _indices() -> dict[str, int]:
    return {wnid: index for index, wnid in enumerate(wnids())}


@cache
def _names() -> dict[str, int]:
    return {_plain(name): index for index, name in enumerate(class_names())}


@cache
def _folded() -> dict[str, int]:
    return {name.casefold(): index for name, index in _names().items()}
