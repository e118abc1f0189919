"""What is wrong with a data set, before hours are spent on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vertebra.card import Decoding
from vertebra.decoding_notes import DecodingNotes

from ._alike import copies, near_copies
from ._dataset import SPLITS, DataError, Dataset
from ._facts import Facts

TINY = 32  # pixels of the shorter side
EXTREME = 4.0  # longer side / shorter side: a centre crop loses three quarters of it
FEW = 10  # photos of a class
IMBALANCE = 10.0  # largest class / smallest


@dataclass(frozen=True)
class Broken:
    """A photo that cannot be used."""

    path: str
    kind: str  # "unreadable", "empty", "not an image", "not supported" or "damaged"
    reason: str


@dataclass(frozen=True)
class Odd:
    """A photo that can be used and may be a mistake."""

    path: str
    width: int
    height: int


@dataclass(frozen=True)
class Group:
    """Photos that are the same."""

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    exact: bool  # the same bytes

    @property
    def contradicts(self) -> bool:
        """Whether the same picture has more than one label."""
        return len(set(self.labels)) > 1

    @property
    def leaks(self) -> bool:
        """Whether the same picture is trained on and tested on."""
        return len(set(self.splits)) > 1


@dataclass(frozen=True)
class Audit:
    """What was found. Paths are relative to the data set's folder."""

    name: str
    photos: int  # all that were listed
    classes: dict[str, int]  # class -> photos that can be used
    splits: dict[str, int]  # split -> photos that can be used; empty where nothing has been split
    sizes: tuple[int, int, int]  # shorter side of usable photos in pixels: least, median, most
    broken: tuple[Broken, ...]
    tiny: tuple[Odd, ...]
    extreme: tuple[Odd, ...]
    groups: tuple[Group, ...]
    case_clashes: tuple[tuple[str, ...], ...]  # class names that differ in case only
    others: tuple[str, ...]  # files that are no photos by their name
    unreadable: tuple[str, ...]  # folders that could not be listed, and why
    notes: tuple[str, ...] = ()  # sentences: what was joined, left out or passed by when it was read, how it decodes
    unclear: int = 0  # photos of 16-bit values that are nearly black, or cut off to white, as their depth is not known

    @property
    def usable(self) -> int:
        """Photos that can be used."""
        return self.photos - len(self.broken)

    @property
    def few(self) -> dict[str, int]:
        """Classes with so few photos that hardly anything can be learned or measured."""
        return {name: count for name, count in self.classes.items() if count < FEW}

    @property
    def imbalance(self) -> float:
        """Photos of the largest class for each of the smallest that has any."""
        counts = [count for count in self.classes.values() if count]
        return max(counts) / min(counts) if counts else 1.0

    @property
    def contradictions(self) -> list[Group]:
        """The same picture under two labels."""
        return [group for group in self.groups if group.contradicts]

    @property
    def leaks(self) -> list[Group]:
        """The same picture in two splits."""
        return [group for group in self.groups if group.leaks]

    @property
    def problems(self) -> list[str]:
        """What `--strict` refuses, a line each; the first words are a number."""
        found = [
            (len(self.broken), "cannot be used", "photo"),
            (len(self.unreadable), "cannot be listed", "folder"),
            (len(self.contradictions), "appear under different labels", "picture"),
            (len(self.leaks), "appear in different splits", "picture"),
            (len(self.case_clashes), "differ in case only", "set of class names"),
            (sum(count == 0 for count in self.classes.values()), "without any usable photo", "class"),
            (self.unclear, "of 16-bit values whose white is in doubt (see --bits)", "photo"),
        ]
        return [f"{plural(count, what)} {how}" for count, how, what in found if count]

    def check(self) -> None:
        """Refuse a data set with problems.

        Raises:
            DataError: names them.
        """
        if self.problems:
            example = f" The first is {self.broken[0].path} ({self.broken[0].reason})." if self.broken else ""
            raise DataError(
                f"{self.name}: {'; '.join(self.problems)}.{example} `vertebra audit` shows all. Correct them, or leave "
                "--strict out."
            )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        groups = [asdict(group) | {"contradicts": group.contradicts, "leaks": group.leaks} for group in self.groups]
        return asdict(self) | {
            "usable": self.usable,
            "few": self.few,
            "imbalance": round(self.imbalance, 2),
            "groups": groups,
            "problems": self.problems,
        }

    def lines(self, most: int = 5) -> list[str]:
        """For people: a line each finding, with at most so many examples below it."""
        least, median, largest = self.sizes
        named = {name: count for name, count in self.classes.items() if count}
        smallest, biggest = min(named, key=named.__getitem__), max(named, key=named.__getitem__)
        lines = [
            f"{self.name}: {plural(self.photos, 'photo')} in {plural(len(self.classes), 'class')}, {self.usable:,} of "
            "them usable",
            f"shorter side {least:,} to {largest:,} pixels, median {median:,}",
            f"smallest class {smallest} ({named[smallest]:,}), largest {biggest} ({named[biggest]:,})"
            + (f": imbalance {self.imbalance:.1f}" if self.imbalance >= IMBALANCE else ""),
        ]
        if self.splits:
            lines.append(", ".join(f"{name} {count:,}" for name, count in self.splits.items()))

        def tell(title: str, entries: Sequence[str]) -> None:
            if entries:
                lines.append(f"{title}: {len(entries):,}")
                lines.extend(f"  {entry}" for entry in entries[:most])
                if len(entries) > most:
                    lines.append(f"  … and {len(entries) - most:,} more")

        tell("cannot be used", [f"{b.path}: {b.kind} ({b.reason})" for b in self.broken])
        tell("folders passed by", self.unreadable)
        tell("same picture, different labels", [", ".join(group.paths) for group in self.contradictions])
        tell("same picture, different splits", [_with_splits(group) for group in self.leaks])
        for exact, title in ((True, "copies within a class"), (False, "near-duplicates within a class")):
            own = [g for g in self.groups if g.exact == exact and not g.contradicts and not g.leaks]
            tell(title, [", ".join(group.paths) for group in own])
        tell("class names that differ in case only", [" and ".join(names) for names in self.case_clashes])
        tell(f"classes with fewer than {FEW} photos", [f"{name} ({count})" for name, count in self.few.items()])
        for odd, title in ((self.tiny, f"smaller than {TINY} pixels"), (self.extreme, "long and narrow")):
            if 2 * len(odd) > self.usable:  # not mistakes, but how this data set is
                lines.append(f"{title}: {len(odd):,}, most of all photos")
                continue
            tell(title, [f"{photo.path} ({photo.width} × {photo.height})" for photo in odd])
        tell("other files, left alone", self.others)
        lines.extend(self.notes)
        if not self.problems:
            lines.append("no problems found")
        return lines


def audit(
    dataset: Dataset,
    facts: Sequence[Facts],
    splits: Sequence[str] | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> Audit:
    """Judge a data set by the facts of its photos.

    Args:
        dataset: the photos.
        facts: of each photo, as `look_through` returns them.
        splits: of each photo. None: those that the data set brings.
        decoding: that the facts were found by.
    """
    photos = dataset.photos
    shown = [dataset.shown(photo.path) for photo in photos]
    given = [photo.split or "" for photo in photos] if splits is None else list(splits)
    usable = [index for index, found in enumerate(facts) if found.broken is None]
    if not usable:
        first = facts[0]
        raise DataError(f"{dataset.name}: none of its photos can be used. The first, {shown[0]}, {first.reason}.")
    odd = [Odd(shown[i], facts[i].width, facts[i].height) for i in usable]
    sides = sorted(min(photo.width, photo.height) for photo in odd)
    per_class = Counter(photos[i].label for i in usable)
    per_split = Counter(given[i] for i in usable)
    groups = []
    for exact, found in ((True, copies(facts)), (False, near_copies(facts))):
        for members in found:
            # What the data set does not split cannot leak yet.
            where = tuple(given[i] for i in members if given[i])
            labels = tuple(photos[i].label for i in members)
            groups.append(Group(tuple(shown[i] for i in members), labels, where, exact))
    decoded = DecodingNotes(decoding)
    for i in usable:
        decoded.add(shown[i], facts[i].levels, facts[i].remarks.splitlines())
    return Audit(
        name=dataset.name,
        photos=len(photos),
        classes={name: per_class[name] for name in dataset.classes},
        splits={name: per_split[name] for name in SPLITS if per_split[name]},
        sizes=(sides[0], sides[len(sides) // 2], sides[-1]),
        broken=tuple(Broken(shown[i], f.broken, f.reason) for i, f in enumerate(facts) if f.broken is not None),
        tiny=tuple(photo for photo in odd if min(photo.width, photo.height) < TINY),
        extreme=tuple(p for p in odd if max(p.width, p.height) > EXTREME * min(p.width, p.height)),
        groups=tuple(groups),
        case_clashes=_case_clashes(dataset.classes),
        others=dataset.others,
        unreadable=dataset.unreadable,
        notes=(*dataset.notes, *decoded.lines(idle=True)),
        unclear=decoded.unclear,
    )


def _case_clashes(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    alike = defaultdict(list)
    for name in names:
        alike[name.casefold()].append(name)
    return tuple(tuple(group) for group in alike.values() if len(group) > 1)


def _with_splits(group: Group) -> str:
    if len(group.splits) != len(group.paths):
        return ", ".join(group.paths)
    return ", ".join(f"{path} ({split})" for path, split in zip(group.paths, group.splits, strict=True))


def plural(count: int, what: str) -> str:
    """`"1 photo"`, `"2,000 photos"`, `"2 classes"`."""
    if count == 1:
        return f"1 {what}"
    if what.startswith("set of"):
        return f"{count:,} {what.replace('set', 'sets', 1)}"
    return f"{count:,} {what}{'es' if what.endswith('s') else 's'}"
