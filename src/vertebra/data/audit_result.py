"""What an audit found: its records, the problems among it, and its lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from vertebra.units import counted

from .dataset import DataError
from .image_alignment import SAME

FEW = 10  # photos of a class
IMBALANCE = 10.0  # largest class / smallest
TINY = 32  # pixels of the shorter side


@dataclass(frozen=True)
class Broken:
    """A photo that cannot be used."""

    path: str
    kind: str  # as `ImageInfo.broken` has them
    reason: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


@dataclass(frozen=True)
class UnusualPhoto:
    """A photo that can be used and may be a mistake."""

    path: str
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.path} ({self.width} × {self.height})"


@dataclass(frozen=True)
class Group:
    """Photos that are the same."""

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    exact: bool  # the same bytes
    kinds: tuple[str, ...] = ()  # what was done to the first to get each: "mirrored, cropped"; empty for the first

    @property
    def contradicts(self) -> bool:
        """Whether the same picture has more than one label."""
        return len(set(self.labels)) > 1

    @property
    def leaks(self) -> bool:
        """Whether the same picture is trained on and tested on."""
        return len(set(self.splits)) > 1

    def photos(self) -> list[tuple[str, str, str]]:
        """Of each photo its path, what was done to the first to get it, and its split; empty where there is none."""
        blank = ("",) * len(self.paths)
        splits = self.splits if len(self.splits) == len(self.paths) else blank
        return list(zip(self.paths, self.kinds or blank, splits, strict=True))

    def shown(self, *, splits: bool = True) -> str:
        """For people: paths, with what was done to the first and with the splits, where there are any."""
        entries = []
        for path, kind, split in self.photos():
            parts = ("" if self.exact or kind == SAME else kind, split if splits else "")
            what = ", ".join(filter(None, parts))
            entries.append(f"{path} ({what})" if what else path)
        return ", ".join(entries[:6]) + (f" and {len(entries) - 6:,} more" if len(entries) > 6 else "")


Entry: TypeAlias = Broken | UnusualPhoto | Group | str


@dataclass(frozen=True)
class Audit:
    """What was found. Paths are relative to the data set's folder."""

    name: str
    photos: int  # all that were listed
    classes: dict[str, int]  # class -> photos that can be used
    splits: dict[str, int]  # split -> photos that can be used; empty where nothing has been split
    sizes: tuple[int, int, int]  # shorter side of usable photos in pixels: least, median, most
    broken: tuple[Broken, ...]
    tiny: tuple[UnusualPhoto, ...]
    extreme: tuple[UnusualPhoto, ...]
    flat: tuple[UnusualPhoto, ...]  # of a single colour
    dark: tuple[UnusualPhoto, ...]  # nearly black
    light: tuple[UnusualPhoto, ...]  # nearly white
    blurred: tuple[UnusualPhoto, ...]
    groups: tuple[Group, ...]
    case_clashes: tuple[tuple[str, ...], ...]  # class names that differ in case only
    others: tuple[str, ...]  # files that are no photos by their name
    unreadable: tuple[str, ...]  # folders that could not be listed, and why
    notes: tuple[str, ...] = ()  # sentences: what was joined, left out or skipped when it was read, how it decodes
    looked_in: str = ""  # of a table: where relative paths were looked up
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
            (count := len(self.contradictions), f"appear{'s' * (count == 1)} under different labels", "picture"),
            (count := len(self.leaks), f"appear{'s' * (count == 1)} in different splits", "picture"),
            (count := len(self.case_clashes), f"differ{'s' * (count == 1)} in case only", "set of class names"),
            (sum(count == 0 for count in self.classes.values()), "without any usable photo", "class"),
            (self.unclear, "of 16-bit values with an unknown white level (see --bits)", "photo"),
        ]
        return [f"{counted(count, what)} {how}" for count, how, what in found if count]

    @property
    def findings(self) -> list[str]:
        """What is no problem by itself and may be one, a line each; the first words are a number."""
        sections = self.sections
        found = [
            (len(sections["copies within a class"]), "of copies", "group"),
            (len(sections["near-duplicates within a class"]), "of near-duplicates", "group"),
            *(
                (len(photos), title, "photo")
                for title, photos in sections.items()
                if photos and isinstance(photos[0], UnusualPhoto) and not self.is_usual(photos)
            ),
            (len([name for name, count in self.few.items() if count]), f"with fewer than {FEW} photos", "class"),
            (len(self.others), "ignored", "other file"),
            (len(self.notes), "on how it was read", "note"),
        ]
        return [f"{counted(count, what)} {how}" for count, how, what in found if count]

    @property
    def sections(self) -> dict[str, Sequence[Entry]]:
        """What there is to show, by its title."""
        own = [group for group in self.groups if not group.contradicts and not group.leaks]
        return {
            "cannot be used": self.broken,
            "folders that could not be listed": self.unreadable,
            "same picture, different labels": self.contradictions,
            "same picture, different splits": self.leaks,
            "copies within a class": [group for group in own if group.exact],
            "near-duplicates within a class": [group for group in own if not group.exact],
            "class names that differ in case only": [" and ".join(names) for names in self.case_clashes],
            f"classes with fewer than {FEW} photos": [f"{name} ({count})" for name, count in self.few.items()],
            f"smaller than {TINY} pixels": self.tiny,
            "long and narrow": self.extreme,
            "of a single colour": self.flat,
            "nearly black": self.dark,
            "nearly white": self.light,
            "very blurred": self.blurred,
            "other files, ignored": self.others,
        }

    def is_usual(self, entries: Sequence[Entry]) -> bool:
        """Whether most photos are so: not mistakes, but how this data set is."""
        return isinstance(entries[0], UnusualPhoto) and 2 * len(entries) > self.usable

    @property
    def conclusion(self) -> str:
        """Whether there are problems or anything else to look at, in a line."""
        if self.problems:
            return f"problems that --strict refuses: {'; '.join(self.problems)}"
        if self.findings:
            return f"no problems that --strict refuses; to look at: {', '.join(self.findings)}"
        return "no problems found"

    def check(self) -> None:
        """Refuse a data set with problems: a DataError names them."""
        if self.problems:
            example = f" The first, {self.broken[0].path}, {self.broken[0].reason}." if self.broken else ""
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
            "findings": self.findings,
        }

    def lines(self, most: int = 5) -> list[str]:
        """For people: a line each finding, with at most so many examples below it."""
        least, median, largest = self.sizes
        named = {name: count for name, count in self.classes.items() if count}
        smallest, biggest = min(named, key=named.__getitem__), max(named, key=named.__getitem__)
        lines = [
            f"{self.name}: {counted(self.photos, 'photo')} in {counted(len(self.classes), 'class')}, {self.usable:,} "
            "of them usable",
            f"shorter side {least:,} to {largest:,} pixels, median {median:,}",
            f"smallest class {smallest} ({named[smallest]:,}), largest {biggest} ({named[biggest]:,})"
            + (f": imbalance {self.imbalance:.1f}" if self.imbalance >= IMBALANCE else ""),
        ]
        if self.looked_in:
            lines.append(self.looked_in)
        if self.splits:
            lines.append(", ".join(f"{name} {count:,}" for name, count in self.splits.items()))

        for title, entries in self.sections.items():
            if entries and self.is_usual(entries):
                lines.append(f"{title}: {len(entries):,}, most of all photos")
            elif entries:
                lines.append(f"{title}: {len(entries):,}")
                splits = title != "same picture, different labels"
                shown = [e.shown(splits=splits) if isinstance(e, Group) else e for e in entries[:most]]
                lines += [f"  {entry}" for entry in shown]
                lines += [f"  … and {len(entries) - most:,} more"] * (len(entries) > most)
        lines.extend(self.notes)
        lines.append(self.conclusion)
        return lines
