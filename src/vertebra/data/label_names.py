"""Rules for names of classes and splits: which are equal, which are splits, and which are ignored.

The same for folders, tables and the classes of a model.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

from vertebra.errors import DataError, UsageError, suggest
from vertebra.sources.text_table import is_text as is_text

# Spellings of the splits, in any case, with or without white space around.
SPLIT_SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tests"),
}
_SPLITS = {spelling: split for split, spellings in SPLIT_SPELLINGS.items() for spelling in spellings}
KNOWN_SPLITS = ", ".join("/".join(spellings) for spellings in SPLIT_SPELLINGS.values())
# Words beside the split in a name that do not name its content: `test_images`, `trainset`.
_FILLERS = frozenset(
    (
        *("set", "data", "dataset", "split", "folder"),
        *("images", "image", "imgs", "img", "photos", "photo", "pics", "pictures"),
    )
)
# Separators of several labels of a photo.
_BETWEEN_LABELS = re.compile(r"\s*[|;,/+&]\s*|\s+and\s+|\s+")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")


def tidy(name: str) -> str:
    """Strip white space and invisible characters, and normalise to Unicode's composed form (NFC)."""
    start, end = 0, len(name)
    while start < end and _is_blank(name[start]):
        start += 1
    while end > start and _is_blank(name[end - 1]):
        end -= 1
    return unicodedata.normalize("NFC", name[start:end])


def _is_blank(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf")


def split_of(name: str) -> str | None:
    """Return the split that a name is a spelling of, or None."""
    return _SPLITS.get(tidy(name).casefold())


def split_within(name: str) -> tuple[str, str] | None:
    """Return the split within a name, and the rest of the name: `birds_train2` → ("train", "birds").

    None if no part of it is a split, or more than one.
    """
    words = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    splits, rest = [], []
    for word in words:
        found = _SPLITS.get(word) or _SPLITS.get(word.removesuffix("set"))
        if found is not None:
            splits.append(found)
        elif word not in _FILLERS:
            rest.append(word)
    return (splits[0], " ".join(rest)) if len(splits) == 1 else None


def merge_spellings(found: Mapping[str, str], source: str) -> tuple[dict[str, str], list[str]]:
    """Merge spellings of a class: return spelling → class, and notes.

    `found` has the first occurrence of each spelling, for messages. Names that differ only in Unicode form or outer
    white space are merged; names that differ only in case or in how a number is written are a DataError.
    """
    classes = {spelling: tidy(spelling) for spelling in found}
    notes: list[str] = []
    first_with_key: dict[tuple[str, str], str] = {}
    written: dict[str, list[str]] = {}
    for spelling, name in classes.items():
        where = found[spelling]
        if not name:
            raise DataError(f"{source}: the class name is empty ({where}). Rename it.")
        if not is_text(name):
            raise DataError(f"{source}: the class name {as_latin1(name)} is not UTF-8 text ({where}). Rename it.")
        for key, how in ((_folded(name), "in case only"), (_number(name), "in how the same number is written")):
            other = first_with_key.setdefault(key, spelling) if key else spelling
            if classes[other] != name:
                raise DataError(
                    f"{source}: the classes {classes[other]!r} ({found[other]}) and {name!r} ({where}) differ {how}, "
                    "so they may be one class or two. Rename one of them, or leave one out with --ignore "
                    f"{argument(other)}."
                )
        written.setdefault(name, []).append(spelling)
    for name, spellings in written.items():
        if len(spellings) > 1:
            merged = ", ".join(f"{spelling!a} ({found[spelling]})" for spelling in spellings)
            notes.append(f"Joined, as they differ only in Unicode form or outer white space: {merged} → {name!r}.")
        elif unicodedata.normalize("NFC", spellings[0]) != name:
            what = "white space" if spellings[0].strip() != spellings[0] else "invisible characters"
            notes.append(f"The class {spellings[0]!a} is named {name!r}, without the {what} around it.")
    separated: dict[str, list[str]] = {}
    for name in written:
        letters = unicodedata.normalize("NFKC", name).casefold()  # also full-width letters
        separated.setdefault("".join(c for c in letters if c.isalnum()), []).append(name)
    for letters, names in separated.items():
        if letters and len(names) > 1:
            notes.append(
                f"The classes {' and '.join(map(repr, names))} differ only in separators or signs. They are kept "
                "apart; if they are one, give them one name."
            )
    for name in written:
        parts = [tidy(part) for part in _BETWEEN_LABELS.split(name)]
        if len(parts) > 1 and all(part in written for part in parts):
            notes.append(
                f"{name!r} is taken for a class of its own, beside {' and '.join(map(repr, dict.fromkeys(parts)))}. A "
                f"photo has one class here; if these photos have several, leave them out with --ignore "
                f"{argument(name)}."
            )
        if (original := _original(name)) in written:
            notes.append(
                f"{name!r} is taken for a class of its own, although it is named like a copy of {original!r}. If they "
                "are one, put their photos together."
            )
        if is_missing_marker(name):
            notes.append(
                f"{name!r} is taken for the name of a class; if it stands for a missing label, leave it out with "
                f"--ignore {argument(name)}."
            )
    return classes, notes


def as_latin1(name: str) -> str:
    """Quote a name that is not valid UTF-8, decoded as Latin-1, the likeliest encoding."""
    decoded = "".join(chr(ord(c) - 0xDC00) if "\udc80" <= c <= "\udcff" else c for c in name)
    return f"{decoded!r} (read as Latin-1)"


def is_missing_marker(name: str) -> bool:
    """Whether a label is a usual marker of a missing one, such as `NaN` or `-`."""
    letters = name.casefold()
    if letters in ("nan", "<na>", "nat", "none", "null", "na", "n/a", "#n/a", "\\n", "-", "--", "---", "?", "??", "."):
        return True
    return re.sub(r"[\W_]", "", letters) in ("nolabel", "unlabeled", "unlabelled", "unannotated", "unsorted", "unsup")


def _original(name: str) -> str | None:
    """Return the original's name of a copied folder, such as `cat (1)`, `cat - Copy`, `Copy of cat`."""
    for pattern in (r"(.+?)(?: ?-? ?copy)?(?: ?\([0-9]+\))", r"(.+?)(?: ?-|_)? ?copy(?: [0-9]+)?", r"copy of (.+)"):
        if match := re.fullmatch(pattern, name, re.IGNORECASE):
            return match[1]
    return None


def _folded(name: str) -> tuple[str, str]:
    return "case", unicodedata.normalize("NFC", name.casefold())


def _number(name: str) -> tuple[str, str] | None:
    return ("number", str(Decimal(name).normalize() + 0)) if _NUMBER.fullmatch(name) else None


def argument(name: str) -> str:
    """Quote a name for the command line if it needs it."""
    return name if re.fullmatch(r"[\w./+-]+", name) else f'"{name}"'


def match_names(labels: Iterable[str], known: Sequence[str], source: str) -> tuple[dict[str, str], list[str]]:
    """Match labels to the classes of a model: return label → class, and the labels that match none.

    A label that differs from a class only in case or in how a number is written is a DataError.
    """
    by_key: dict[object, str] = {}
    for name in known:
        for key in (tidy(name), _folded(tidy(name)), _number(tidy(name))):
            if key is not None:
                by_key.setdefault(key, name)
    matched, unknown = {}, []
    for label in labels:
        key = tidy(label)
        if key in by_key:
            matched[label] = by_key[key]
        elif other := by_key.get(_folded(key)) or by_key.get(_number(key)):
            raise DataError(
                f"{source}: the class {label!r} and the model's {other!r} differ only in case or in how a number is "
                f"written, so they may be one class or two. Rename it, or leave it out with --ignore {argument(label)}."
            )
        else:
            unknown.append(label)
    return matched, unknown


class Ignored:
    """Names of folders, classes, splits or columns to ignore (--ignore).

    A name with a separator is a path below the root; one without matches every folder or value of that name.
    """

    def __init__(self, names: Sequence[str], root: Path | None = None) -> None:
        if isinstance(names, str):
            raise UsageError(f"ignore is {names!r}; it must be a list of names.")
        self._names = {name: _spellings(name, root) for name in names}
        if empty := [name for name, spellings in self._names.items() if not all(spellings)]:
            raise UsageError(f"the name to ignore is {empty[0]!r}. Give the name of a folder or class.")
        self._used: set[str] = set()

    def has(self, *spellings: str) -> bool:
        """Whether one of these spellings is ignored."""
        wanted = {tidy(spelling) for spelling in spellings}
        found = [name for name, asked in self._names.items() if asked & wanted]
        self._used.update(found)
        return bool(found)

    def check(self, seen: Iterable[str], source: str) -> None:
        """Raise a UsageError for an ignored name that `seen` does not have, with the nearest one."""
        unused = [name for name in self._names if name not in self._used]
        if unused:
            there = sorted(set(seen))
            most = f"There are {', '.join(there[:10])}{', …' if len(there) > 10 else ''}."
            raise UsageError(
                f"{source} has nothing named {unused[0]!r} to ignore. "
                f"{suggest(unused[0], there) or (most if there else '')}".rstrip()
            )


def _spellings(name: str, root: Path | None) -> set[str]:
    """Return a name without the `./` and trailing separator that shells add, and as a path below the root."""
    found = {tidy(name).rstrip("/").rstrip(os.sep).removeprefix("./")}
    if root is not None and "/" in name.rstrip("/"):
        below = os.path.relpath(name, root)
        if not below.startswith(os.pardir) and below != os.curdir:
            found.add(tidy(Path(below).as_posix()))
    return found
