"""The labels that photos in WebDataset shards have from several sources: .cls, and fields of .json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from vertebra.sources.photo_place import StoredPhoto
from vertebra.sources.tar_shards import CLS, TarMember

from .dataset import DataError
from .label_names import argument

_WHOLE = re.compile(r"[0-9]+")


def is_number(label: str) -> bool:
    """Whether a label is the index of a class."""
    return _WHOLE.fullmatch(label) is not None


class LabelSources:
    """Takes each photo's label from its first source, and compares it with those of the others.

    Two sources agree if their labels are one to one, as numbers and names of the same classes are.
    """

    def __init__(self, is_ignored: Callable[[str], bool]) -> None:
        self._is_ignored = is_ignored
        self._used: Counter[str] = Counter()
        self._example: dict[tuple[str, bool], tuple[str, str]] = {}  # (source, is a number) → place and label
        # (source, other, which of the two a key is of) → {label: (place, label of the source, label of the other)}
        self._pairs: dict[tuple[str, str, int], dict[str, tuple[str, str, str]]] = {}

    def _labels(self, member: TarMember) -> Iterator[tuple[str, str]]:
        for source, label in member.labels.items():
            kind = "cls" if source == CLS else "json"
            if label and not self._is_ignored(kind) and not self._is_ignored(source):
                yield source, label

    def label(self, member: TarMember) -> str | None:
        """Return a photo's label; None if it has none."""
        return next((label for _, label in self._labels(member)), None)

    def compare(self, member: TarMember, place: StoredPhoto) -> None:
        """Raise a `DataError` if the sources of a photo's label are not those of the same classes as before."""
        (source, label), *others = self._labels(member)
        self._used[source] += 1
        self._example.setdefault((source, is_number(label)), (str(place), label))
        for other, value in others:
            here = (str(place), label, value)
            for side, key in enumerate((label, value)):
                before = self._pairs.setdefault((source, other, side), {}).setdefault(key, here)
                if before[1:] != here[1:]:
                    elsewhere = f"{before[0]} has {before[1]!r} and {before[2]!r}"
                    raise _contradiction(source, other, here, elsewhere)

    def notes(self, first: Mapping[str, str], names: Mapping[str, str]) -> list[str]:
        """Return notes on the sources; `names` has the class of each label, and `first` its first photo.

        Raises:
            DataError: they contradict each other, or some photos have numbers of classes and others names.
        """
        classes = {name: label for label, name in names.items()}
        notes = []
        for (source, other, side), pairs in self._pairs.items():
            if side:
                continue
            for label, (place, _, value) in pairs.items():
                meant = classes.get(value, value if value in names else label)
                if meant != label:
                    shown = repr(meant) if names[meant] == meant else f"{meant} ({names[meant]})"
                    elsewhere = f"{first[meant]} has {shown} by {_shown(source)}"
                    raise _contradiction(source, other, (place, names[label], value), elsewhere)
            different = [(label, value) for label, (_, _, value) in pairs.items() if names[label] != value]
            if different:
                label, value = different[0]
                notes.append(
                    f"Labels are of {_shown(source)}; {_shown(other)} calls the same classes otherwise, such as "
                    f"{value!r} for {names[label]!r}."
                )
        if len(self._used) > 1:
            self._require_one_kind()
            counts = ", ".join(f"{_shown(source)} ({count:,})" for source, count in self._used.items())
            notes.append(f"Labels are of several sources: {counts}.")
        elif used := [each for each in self._used if each not in (CLS, "label")]:
            notes.append(f"Labels are of {_shown(used[0])}.")
        return notes

    def _require_one_kind(self) -> None:
        number = next(((s, found) for (s, is_one), found in self._example.items() if is_one), None)
        name = next(((s, found) for (s, is_one), found in self._example.items() if not is_one), None)
        if number is not None and name is not None and number[0] != name[0]:
            raise DataError(
                f"{number[1][0]} has the label {number[1][1]!r} by {_shown(number[0])}, and {name[1][0]} the label "
                f"{name[1][1]!r} by {_shown(name[0])}: a number and a name. Label all photos in one way."
            )


def _contradiction(source: str, other: str, here: tuple[str, str, str], elsewhere: str) -> DataError:
    place, label, value = here
    options = " or ".join(f"--ignore {argument(each.lstrip('.'))}" for each in (source, other))
    return DataError(
        f"{place} has the label {label!r} by {_shown(source)} and {value!r} by {_shown(other)}, but {elsewhere}: they "
        f"contradict each other. Correct them, or leave one out: {options}."
    )


def _shown(source: str) -> str:
    return source if source == CLS else f"the field {source!r} of .json"
