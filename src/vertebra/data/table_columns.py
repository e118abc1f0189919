"""Which column of a table is the path, the label and the split; every other one is named as not read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from vertebra.errors import UsageError, nearest
from vertebra.photo_files import SUFFIXES as PHOTO_SUFFIXES

from .dataset import DataError
from .label_names import KNOWN_SPLITS, Ignored, argument, split_of, tidy
from .table_file import Table
from .table_splits import (
    LIKE_SPLITS,
    SPLIT_COLUMNS,
    cell_text,
    column_key,
    column_list,
    quoted_list,
    split_kind,
    split_text,
    splits_from_booleans,
)

# Names of columns, compared without case, spaces and signs (R writes dots for spaces); the first of all is the
# documented one.
# Those of the second row count only where none of the first is there: numbers of photos and classes mostly stand
# beside their names.
_PATHS = (
    (
        *("path", "file", "filename", "filepath", "paths", "files", "filenames", "filepaths", "fname", "fullpath"),
        *("image", "imagefile", "imagefilename", "imagefilepath", "imagename", "imagepath", "images", "imagepaths"),
        *("img", "imgfile", "imgname", "imgpath", "photo", "photofile", "photoname", "photopath", "photos"),
    ),
    ("imageid", "imgid", "photoid", "fileid", "idcode", "id"),
)
_LABELS = (
    (
        *("label", "labels", "labelname", "class", "classes", "classname", "classlabel", "category", "categories"),
        *("categoryname", "target", "targets", "targetname", "imagelabel", "imageclass", "imagecategory"),
    ),
    ("species", "breed", "diagnosis", "labelid", "classid", "categoryid", "targetid", "classindex", "labelindex"),
)


@dataclass(frozen=True)
class Asked:
    """What a person said of a table: the names of its columns, and the folder that its paths are relative to."""

    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    image_root: str | None = None

    @property
    def flags(self) -> list[str]:
        """As words of a command."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return [word for name, value in said.items() for word in (f"--{name.replace('_', '-')}", value)]

    def fits(self, names: Sequence[str]) -> bool:
        """Whether a table's first line has the columns of a path and of a label."""
        keys = {column_key(name.strip('" ')) for name in names}
        return all(
            column_key(said) in keys if said is not None else not keys.isdisjoint(name for row in known for name in row)
            for said, known in ((self.path_column, _PATHS), (self.label_column, _LABELS))
        )


@dataclass(frozen=True)
class Columns:
    """What is read of a table."""

    path: int
    label: int
    splits: list[str | None] | None  # of each row as it is written; None where the table has no column of it
    notes: tuple[str, ...]


def choose_columns(table: Table, ignored: Ignored, said: Asked) -> Columns:
    """Choose the columns by what was said of them, or by their names; those of splits also by their values.

    Raises:
        DataError: a column is missing or there are two of it, or a column of splits has other values.
        UsageError: there is no column of a name that was said.
    """
    here = [i for i, name in enumerate(table.names) if not ignored.has(name)]
    asked = [table.names[i] for i in range(len(table.names)) if i not in here]
    notes = [f"Columns ignored, as asked: {quoted_list(asked)}."] if asked else []
    path = _choose(table, here, _PATHS, said.path_column, notes)
    label = _choose(table, here, _LABELS, said.label_column, notes)
    if path == label:
        raise UsageError(f"{table.source}: the column {table.names[path]!r} cannot be both path and label.")
    kinds = {i: split_kind(table, i) for i in here if i not in (path, label)}
    if said.split_column is not None:
        own = _named(table, here, "split", said.split_column)
        if own in (path, label):
            raise UsageError(f"{table.source}: the column {table.names[own]!r} cannot be the split as well.")
        kinds = {i: "name" if i == own and kind != "boolean" else kind for i, kind in kinds.items()}
        kinds = {i: None if i != own and kind != "partly" else kind for i, kind in kinds.items()}
    by_name, by_value, partly = (
        [i for i, kind in kinds.items() if kind == wanted] for wanted in ("name", "boolean", "partly")
    )
    unread = [i for i, kind in kinds.items() if kind in (None, "partly")]
    found = by_name + by_value
    if len(by_name) > 1 or (by_name and by_value):
        names = [table.names[i] for i in found]
        raise DataError(
            f"{table.source} has {len(found)} columns that say the split: {quoted_list(names)}. Say which counts: "
            f"{_ways('split', names)}."
        )
    splits: list[str | None] | None = None
    if by_name:
        splits = [split_text(table, by_name[0], row, value) for row, value in enumerate(table.column(by_name[0]))]
    elif by_value:
        splits = list(splits_from_booleans(table, by_value))
    if found and column_key(table.names[found[0]]) != "split":
        notes.append(f"The split is read from {column_list([table.names[i] for i in found])}.")
    if unread:
        notes.append(f"Not read: {column_list([table.names[i] for i in unread])}.")
    notes += [
        f"The column {table.names[i]!r} may be a split, but its values are none of {KNOWN_SPLITS}; the photos are "
        "split without it."
        for i in unread
        if column_key(table.names[i]) in SPLIT_COLUMNS or LIKE_SPLITS.search(column_key(table.names[i]))
    ]
    notes += [
        f"The column {table.names[i]!r} may be a split: it has names of splits and other values, such as "
        f"{next(text for text in map(cell_text, table.column(i)) if text and not split_of(text))!r}. Give "
        f"--split-column {argument(table.names[i])} if it is one; the photos are split without it."
        for i in partly
    ]
    return Columns(path, label, splits, tuple(notes))


def _choose(
    table: Table, here: Sequence[int], known: tuple[tuple[str, ...], ...], said: str | None, notes: list[str]
) -> int:
    """The column that was said, or else the only one whose name is known."""
    wanted = known[0][0]
    if said is not None:
        found = [_named(table, here, wanted, said)]
    else:
        rows = ([i for i in here if column_key(table.names[i]) in names] for names in known)
        found = next(filter(None, rows), [])
        # Parquet has images themselves in columns, too, and boxes in those of labels.
        found = [i for i in found if "<" not in table.kinds[i]] or found
    if not found:
        raise DataError(_without(table, wanted, here))
    if len(found) > 1:
        several = [table.names[i] for i in found]
        raise DataError(
            f"{table.source} has {len(found)} columns that may be the {wanted}: {quoted_list(several)}"
            + (
                f", which begin with {quoted_list([cell_text(table.column(i)[0]) for i in found])}. "
                if table.rows
                else ". "
            )
            + (f"Say which: {_ways(wanted, several)}." if len(set(several)) > 1 else "Give them different names.")
        )
    if column_key(table.names[found[0]]) != wanted:
        notes.append(f"The {wanted} is read from the column {table.names[found[0]]!r}.")
    return found[0]


def _named(table: Table, here: Sequence[int], wanted: str, said: str) -> int:
    """The column of a name, as it is written or else without case, spaces and signs.

    Raises:
        UsageError: there is none, or more than one.
    """
    names = [table.names[i] for i in here]
    found = [i for i in here if table.names[i] == tidy(said)]
    found = found or [i for i in here if column_key(table.names[i]) == column_key(said) != ""]
    if len(found) == 1:
        return found[0]
    how = f"{len(found)} columns" if found else "no column"
    hint = nearest(said, names) if not found else "Give them different names."
    listed = f" (it has {', '.join(name or 'one without a name' for name in names)})" if names else ""
    raise UsageError(f"{table.source} has {how} {said!r}{listed}, which --{wanted}-column asks for. {hint}".rstrip())


def _without(table: Table, wanted: str, here: Sequence[int]) -> str:
    """What is said where a column is missing."""
    there = [table.names[i] for i in here]
    words = (word for name in there for word in (name, *name.split()))
    photo = next((word for word in words if _is_photo(word)), None)
    if photo is not None:
        return (
            f"{table.source} has no column {wanted!r}: its first line has a photo, {photo}. Put the names of the "
            "columns above it: path,label or path,label,split."
        )
    if len(there) == 1 and (cut := re.split(r"[,;\t|]", there[0]))[1:]:
        return (
            f"{table.source} has no column {wanted!r}: its first line is one field, {there[0]!r}. Take away the quotes "
            f"around whole lines: {','.join(cut)}."
        )
    if wanted == "label" and (one_hot := _one_hot(table, here)):
        names = [table.names[i] for i in one_hot]
        several = next((row for row, ones in enumerate(_ones(table, one_hot)) if ones != 1), None)
        span = f"{one_hot[0]}:{one_hot[-1] + 1}"
        how = (
            f": table['label'] = table.iloc[:, {span}].idxmax(axis=1)" if _is_span(one_hot) else ", with idxmax(axis=1)"
        )
        return (
            f"{table.source} has no column 'label', but {len(names)} of zeros and ones "
            f"({', '.join(map(repr, names[:3]))}{', …' if names[3:] else ''}), as where each class has one. "
            + (
                f"Add a column 'label' with the name of each photo's class, in pandas{how}."
                if several is None
                else f"In {table.where(several)} not exactly one of them is 1, but a photo has one class here: add a "
                "column 'label' that says which."
            )
        )
    if meant := _of_photos(table, here) if wanted == "path" else []:
        return (
            f"{table.source} has no column 'path' (it has {', '.join(there)}). The column {meant[0]!r} has names of "
            f"photos: give --path-column {argument(meant[0])}"
            + ("." if _has_labels(there) else ", and --label-column NAME for that of the labels.")
        )
    others = there if wanted == "path" else there[1:]
    which = f"If one of them is it, give --{wanted}-column NAME. " if others else ""
    return (
        f"{table.source} has no column {wanted!r} (it has {', '.join(there) or 'none'}). {nearest(wanted, there)} "
        f"{which}The first line names the columns: path,label or path,label,split."
    ).replace("  ", " ")


def _is_photo(text: str) -> bool:
    return text.strip().lower().endswith(tuple(PHOTO_SUFFIXES))


def _has_labels(names: Sequence[str]) -> bool:
    return any(column_key(name) in known for name in names for known in _LABELS)


def _of_photos(table: Table, here: Sequence[int]) -> list[str]:
    """The columns whose first values are names of photos."""
    return [table.names[i] for i in here if table.names[i] and _all(table, i, _is_photo)]


def _one_hot(table: Table, here: Sequence[int]) -> list[int]:
    """The columns of a table that has one for each class: two or more of zeros and ones, and no other but of paths."""
    found = [i for i in here if _all(table, i, lambda text: text in ("0", "1", "0.0", "1.0"), whole=True)]
    known = {name for names in _PATHS for name in names}
    others = [i for i in here if i not in found and table.names[i] and column_key(table.names[i]) not in known]
    return found if len(found) > 1 and not others else []


def _ones(table: Table, indices: Sequence[int]) -> list[float]:
    """How many of the columns are 1, for each row."""
    return [sum(map(float, row)) for row in zip(*map(table.column, indices), strict=True)]


def _is_span(indices: Sequence[int]) -> bool:
    return list(indices) == list(range(indices[0], indices[-1] + 1))


def _all(table: Table, index: int, test: Callable[[str], bool], *, whole: bool = False) -> bool:
    """Whether a test holds for a column's first values, or for the whole of it, of text or numbers."""
    if not re.match(r"(large_)?string|string_view|bool|u?int|float|double", table.kinds[index]):
        return False
    values = table.column(index)[: None if whole else 1000]
    return bool(values) and all(test(cell_text(value)) for value in values)


def _ways(wanted: str, names: Sequence[str]) -> str:
    return " or ".join(f"--{wanted}-column {argument(name)}" for name in names)
