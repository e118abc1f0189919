"""Chooses the columns of path, label and split of a table; all others are reported as not read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vertebra.errors import UsageError, suggest
from vertebra.sources.path_columns import PATHS, column_key
from vertebra.sources.table_file import Table
from vertebra.sources.text_table import is_photo_name

from .dataset import DataError
from .label_names import KNOWN_SPLITS, Ignored, argument, split_of, tidy
from .table_splits import (
    LIKE_SPLITS,
    SPLIT_COLUMNS,
    cell_text,
    column_list,
    quoted_list,
    split_kind,
    split_text,
    splits_from_booleans,
)

# Names of columns, compared as those of paths are.
_LABELS = (
    (
        *("label", "labels", "labelname", "class", "classes", "classname", "classlabel", "category", "categories"),
        *("categoryname", "target", "targets", "targetname", "imagelabel", "imageclass", "imagecategory"),
    ),
    ("species", "breed", "diagnosis", "labelid", "classid", "categoryid", "targetid", "classindex", "labelindex"),
)


@dataclass(frozen=True)
class TableOptions:
    """The options for a table: names of its columns, and the folder that its paths are relative to."""

    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    image_root: str | None = None

    def fits(self, names: Sequence[str]) -> bool:
        """Whether a table's first line has the columns of paths and labels."""
        keys = {column_key(name.strip('" ')) for name in names}
        return all(
            column_key(name) in keys if name is not None else not keys.isdisjoint(key for row in known for key in row)
            for name, known in ((self.path_column, PATHS), (self.label_column, _LABELS))
        )


def choose_columns(
    table: Table, ignored: Ignored, options: TableOptions, notes: list[str]
) -> tuple[int, int, list[str | None] | None]:
    """Return the indices of the path and label columns, and the split of each row as written, if there are any."""
    here = [i for i, name in enumerate(table.names) if not ignored.has(name)]
    asked = [table.names[i] for i in range(len(table.names)) if i not in here]
    if asked:
        notes.append(f"Columns ignored, as asked: {quoted_list(asked)}.")
    path = _choose(table, here, PATHS, options.path_column, notes)
    label = _choose(table, here, _LABELS, options.label_column, notes)
    if path == label:
        raise UsageError(f"{table.source}: the column {table.names[path]!r} cannot be both path and label.")
    kinds = {i: split_kind(table, i) for i in here if i not in (path, label)}
    if options.split_column is not None:
        own = _named(table, here, "split", options.split_column)
        if own in (path, label):
            raise UsageError(f"{table.source}: the column {table.names[own]!r} cannot be the split as well.")
        own_kind = "boolean" if kinds[own] == "boolean" else "name"
        kinds = {i: kind if kind == "partly" else None for i, kind in kinds.items()} | {own: own_kind}
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
    return path, label, splits


def _choose(
    table: Table, here: Sequence[int], known: tuple[tuple[str, ...], ...], given: str | None, notes: list[str]
) -> int:
    """Return the column given by an option, or else the only one with a known name."""
    wanted = known[0][0]
    if given is not None:
        found = [_named(table, here, wanted, given)]
    else:
        rows = ([i for i in here if column_key(table.names[i]) in names] for names in known)
        found = next(filter(None, rows), [])
        # Parquet may also have images as structs, or boxes in the column of labels.
        found = [i for i in found if "<" not in table.kinds[i]] or found
    if not found:
        raise DataError(_missing_column_message(table, wanted, here))
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


def _named(table: Table, here: Sequence[int], wanted: str, given: str) -> int:
    """Return the column of a name, compared exactly, or else without case, spaces and punctuation."""
    names = [table.names[i] for i in here]
    found = [i for i in here if table.names[i] == tidy(given)]
    found = found or [i for i in here if column_key(table.names[i]) == column_key(given) != ""]
    if len(found) == 1:
        return found[0]
    how = f"{len(found)} columns" if found else "no column"
    hint = suggest(given, names) if not found else "Give them different names."
    listed = f" (it has {', '.join(name or 'one without a name' for name in names)})" if names else ""
    raise UsageError(f"{table.source} has {how} {given!r}{listed}, which --{wanted}-column asks for. {hint}".rstrip())


def _missing_column_message(table: Table, wanted: str, here: Sequence[int]) -> str:
    """Return the error message for a missing column."""
    there = [table.names[i] for i in here]
    missing = f"{table.source} has no column {wanted!r}"
    words = (word for name in there for word in (name, *name.split()))
    photo = next((word for word in words if is_photo_name(word)), None)
    if photo is not None:
        return (
            f"{missing}: its first line has a photo, {photo}. Put the names of the columns above it: path,label or "
            "path,label,split."
        )
    if len(there) == 1 and (cut := re.split(r"[,;\t|]", there[0]))[1:]:
        quoted = "Take away the quotes around whole lines"
        return f"{missing}: its first line is one field, {there[0]!r}. {quoted}: {','.join(cut)}."
    if wanted == "label" and (one_hot := _one_hot_columns(table, here)):
        names = [repr(table.names[i]) for i in one_hot]
        few = f"{', '.join(names[:3])}{', …' if names[3:] else ''}"
        ones = [sum(map(float, row)) for row in zip(*map(table.column, one_hot), strict=True)]
        several = next((row for row, count in enumerate(ones) if count != 1), None)
        how = ", with idxmax(axis=1)"
        if one_hot == list(range(one_hot[0], one_hot[-1] + 1)):
            how = f": table['label'] = table.iloc[:, {one_hot[0]}:{one_hot[-1] + 1}].idxmax(axis=1)"
        remedy = f"Add a column 'label' with the name of each photo's class, in pandas{how}."
        if several is not None:
            remedy = (
                f"In {table.where(several)} not exactly one of them is 1, but a photo has one class here: add a column "
                "'label' that says which."
            )
        return f"{missing}, but {len(names)} of zeros and ones ({few}), as where each class has one. {remedy}"
    missing = f"{missing} (it has {', '.join(there) or 'none'})."
    photos = [i for i in here if wanted == "path" and table.names[i] and _all(table, i, is_photo_name)]
    if photos:
        name = table.names[photos[0]]
        has_labels = any(column_key(name) in known for name in there for known in _LABELS)
        rest = "." if has_labels else ", and --label-column NAME for that of the labels."
        return f"{missing} The column {name!r} has names of photos: give --path-column {argument(name)}{rest}"
    others = there if wanted == "path" else there[1:]
    which = f"If one of them is it, give --{wanted}-column NAME." if others else ""
    how = "The first line names the columns: path,label or path,label,split."
    return " ".join(filter(None, [missing, suggest(wanted, there), which, how]))


def _one_hot_columns(table: Table, here: Sequence[int]) -> list[int]:
    """Return the one-hot columns: two or more of zeros and ones, if all others are paths."""
    found = [i for i in here if _all(table, i, lambda text: text in ("0", "1", "0.0", "1.0"), whole=True)]
    known = {name for names in PATHS for name in names}
    others = [i for i in here if i not in found and table.names[i] and column_key(table.names[i]) not in known]
    return found if len(found) > 1 and not others else []


def _all(table: Table, index: int, test: Callable[[str], bool], *, whole: bool = False) -> bool:
    """Whether `test` is true for the first 1,000 values of a column, or for all with `whole`."""
    values = table.column(index)[: None if whole else 1000] if table.holds_text_or_numbers(index) else []
    return bool(values) and all(test(cell_text(value)) for value in values)


def _ways(wanted: str, names: Sequence[str]) -> str:
    return " or ".join(f"--{wanted}-column {argument(name)}" for name in names)
