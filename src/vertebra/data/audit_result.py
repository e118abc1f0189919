"""The result of an audit: its records, which of them are problems, and the text for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from vertebra.units import counted

from .dataset import DataError
from .image_alignment import SAME

FEW_PHOTOS = 10  # of a class
MAX_IMBALANCE = 10.0  # largest class / smallest class
MIN_PHOTO_SIDE = 32  # pixels


@dataclass(frozen=True)
class BrokenPhoto:
    """A photo that cannot be used."""

    path: str
    kind: str  # a value of `ImageInfo.broken`
    reason: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


@dataclass(frozen=True)
class UnusualPhoto:
    """A usable photo that may be a mistake."""

    path: str
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.path} ({self.width} × {self.height})"


@dataclass(frozen=True)
class DuplicateFinding:
    """A duplicate group, with paths, labels and splits instead of indices."""

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    exact: bool  # all have the same bytes
    kinds: tuple[str, ...] = ()  # of `DuplicateGroup`

    @property
    def has_different_labels(self) -> bool:
        """Whether the photos have more than one label."""
        return len(set(self.labels)) > 1

    @property
    def has_different_splits(self) -> bool:
        """Whether the photos are in more than one split."""
        return len(set(self.splits)) > 1

    def photos(self) -> list[tuple[str, str, str]]:
        """Return path, kind and split of each photo; "" for no split."""
        blank = ("",) * len(self.paths)
        splits = self.splits if len(self.splits) == len(self.paths) else blank
        return list(zip(self.paths, self.kinds or blank, splits, strict=True))

    def shown(self, *, splits: bool = True) -> str:
        """Format the first paths, each with its kind and split."""
        entries = []
        for path, kind, split in self.photos():
            parts = ("" if self.exact or kind == SAME else kind, split if splits else "")
            what = ", ".join(filter(None, parts))
            entries.append(f"{path} ({what})" if what else path)
        return ", ".join(entries[:6]) + (f" and {len(entries) - 6:,} more" if len(entries) > 6 else "")


Entry: TypeAlias = BrokenPhoto | UnusualPhoto | DuplicateFinding | str


@dataclass(frozen=True)
class Audit:
    """All findings, by the names of their JSON keys. Paths are relative to the data set's folder."""

    name: str
    photos: int  # usable or not
    classes: dict[str, int]  # class -> usable photos
    splits: dict[str, int]  # split -> usable photos; empty if nothing has been split
    sizes: tuple[int, int, int]  # shorter side of usable photos in pixels: minimum, median, maximum
    broken: tuple[BrokenPhoto, ...]
    tiny: tuple[UnusualPhoto, ...]
    extreme: tuple[UnusualPhoto, ...]
    flat: tuple[UnusualPhoto, ...]  # of a single colour
    dark: tuple[UnusualPhoto, ...]  # nearly black
    light: tuple[UnusualPhoto, ...]  # nearly white
    blurred: tuple[UnusualPhoto, ...]
    groups: tuple[DuplicateFinding, ...]
    case_clashes: tuple[tuple[str, ...], ...]  # class names that differ in case only
    others: tuple[str, ...]  # files without a photo's name
    unreadable: tuple[str, ...]  # folders that could not be listed, each with the reason
    notes: tuple[str, ...] = ()  # sentences: what was merged, left out or skipped, and how photos are decoded
    looked_in: str = ""  # for a table: where its relative paths were looked up
    unclear: int = 0  # 16-bit photos of unknown white level that decode nearly black or clipped to white

    @property
    def usable(self) -> int:
        """Number of usable photos."""
        return self.photos - len(self.broken)

    @property
    def few(self) -> dict[str, int]:
        """Classes with fewer than `FEW_PHOTOS` photos."""
        return {name: count for name, count in self.classes.items() if count < FEW_PHOTOS}

    @property
    def imbalance(self) -> float:
        """Size of the largest class over that of the smallest non-empty one."""
        counts = [count for count in self.classes.values() if count]
        return max(counts) / min(counts) if counts else 1.0

    @property
    def duplicates_across_labels(self) -> list[DuplicateFinding]:
        """Duplicate groups with more than one label."""
        return [group for group in self.groups if group.has_different_labels]

    @property
    def duplicates_across_splits(self) -> list[DuplicateFinding]:
        """Duplicate groups in more than one split."""
        return [group for group in self.groups if group.has_different_splits]

    @property
    def problems(self) -> list[str]:
        """What `--strict` refuses, a line each that begins with a count."""
        found = [
            (len(self.broken), "cannot be used", "photo"),
            (len(self.unreadable), "cannot be listed", "folder"),
            (n := len(self.duplicates_across_labels), f"appear{'s' * (n == 1)} under different labels", "picture"),
            (n := len(self.duplicates_across_splits), f"appear{'s' * (n == 1)} in different splits", "picture"),
            (n := len(self.case_clashes), f"differ{'s' * (n == 1)} in case only", "set of class names"),
            (sum(count == 0 for count in self.classes.values()), "without any usable photo", "class"),
            (self.unclear, "of 16-bit values with an unknown white level (see --bits)", "photo"),
        ]
        return [f"{counted(count, what)} {how}" for count, how, what in found if count]

    @property
    def findings(self) -> list[str]:
        """What may be a mistake but is not refused, a line each that begins with a count."""
        sections = self.sections
        found = [
            (len(sections["exact duplicates within a class"]), "of exact duplicates", "group"),
            (len(sections["near-duplicates within a class"]), "of near-duplicates", "group"),
            *(
                (len(photos), title, "photo")
                for title, photos in sections.items()
                if photos and isinstance(photos[0], UnusualPhoto) and not self.is_usual(photos)
            ),
            (
                len([name for name, count in self.few.items() if count]),
                f"with fewer than {FEW_PHOTOS} photos",
                "class",
            ),
            (len(self.others), "ignored", "other file"),
            (len(self.notes), "on how it was read", "note"),
        ]
        return [f"{counted(count, what)} {how}" for count, how, what in found if count]

    @property
    def sections(self) -> dict[str, Sequence[Entry]]:
        """All findings by title."""
        own = [group for group in self.groups if not group.has_different_labels and not group.has_different_splits]
        return {
            "cannot be used": self.broken,
            "folders that could not be listed": self.unreadable,
            "same picture, different labels": self.duplicates_across_labels,
            "same picture, different splits": self.duplicates_across_splits,
            "exact duplicates within a class": [group for group in own if group.exact],
            "near-duplicates within a class": [group for group in own if not group.exact],
            "class names that differ in case only": [" and ".join(names) for names in self.case_clashes],
            f"classes with fewer than {FEW_PHOTOS} photos": [f"{name} ({count})" for name, count in self.few.items()],
            f"smaller than {MIN_PHOTO_SIDE} pixels": self.tiny,
            "long and narrow": self.extreme,
            "of a single colour": self.flat,
            "nearly black": self.dark,
            "nearly white": self.light,
            "very blurred": self.blurred,
            "other files, ignored": self.others,
        }

    def is_usual(self, entries: Sequence[Entry]) -> bool:
        """Whether these are more than half of the photos, and so no mistakes."""
        return isinstance(entries[0], UnusualPhoto) and 2 * len(entries) > self.usable

    @property
    def conclusion(self) -> str:
        """Problems, or else findings, in a line."""
        if self.problems:
            return f"problems that --strict refuses: {'; '.join(self.problems)}"
        if self.findings:
            return f"no problems that --strict refuses; to look at: {', '.join(self.findings)}"
        return "no problems found"

    def check(self) -> None:
        """Raise a DataError that lists the problems, if there are any."""
        if self.problems:
            example = f" The first, {self.broken[0].path}, {self.broken[0].reason}." if self.broken else ""
            raise DataError(
                f"{self.name}: {'; '.join(self.problems)}.{example} `vertebra audit` shows all. Correct them, or omit "
                "--strict."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        groups = [
            asdict(group) | {"contradicts": group.has_different_labels, "leaks": group.has_different_splits}
            for group in self.groups
        ]
        return asdict(self) | {
            "usable": self.usable,
            "few": self.few,
            "imbalance": round(self.imbalance, 2),
            "groups": groups,
            "problems": self.problems,
            "findings": self.findings,
        }

    def lines(self, max_shown: int = 5) -> list[str]:
        """Return the text for people: each finding with its first examples."""
        lowest, median, highest = self.sizes
        filled = {name: count for name, count in self.classes.items() if count}
        smallest, largest = min(filled, key=filled.__getitem__), max(filled, key=filled.__getitem__)
        lines = [
            f"{self.name}: {counted(self.photos, 'photo')} in {counted(len(self.classes), 'class')}, {self.usable:,} "
            "of them usable",
            f"shorter side {lowest:,} to {highest:,} pixels, median {median:,}",
            f"smallest class {smallest} ({filled[smallest]:,}), largest {largest} ({filled[largest]:,})"
            + (f": imbalance {self.imbalance:.1f}" if self.imbalance >= MAX_IMBALANCE else ""),
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
                shown = [e.shown(splits=splits) if isinstance(e, DuplicateFinding) else e for e in entries[:max_shown]]
                lines += [f"  {entry}" for entry in shown]
                lines += [f"  … and {len(entries) - max_shown:,} more"] * (len(entries) > max_shown)
        lines.extend(self.notes)
        lines.append(self.conclusion)
        return lines
