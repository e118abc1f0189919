"""Finds the column of splits of a table, and reads the split of each row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vertebra.errors import suggest
from vertebra.sources.path_columns import column_key
from vertebra.sources.table_file import Table
from vertebra.sources.text_table import SAVE_AS_UTF8

from .dataset import DataError
from .label_names import SPLIT_SPELLINGS, argument, as_latin1, is_text, split_of, split_within, tidy

# Names of columns that are splits if their values are names of splits.
SPLIT_COLUMNS = (
    *("split", "splits", "datasplit", "set", "subset", "partition", "part", "phase", "stage", "usage", "fold"),
)
# Names of columns that may be splits in a form that is not supported.
LIKE_SPLITS = re.compile(r"^(k|cv|train|val|test)?folds?$|h[eo]ldout|split|(?<!s)train")
_BOOLEANS = {
    # Spreadsheets write booleans in the user's language.
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0", "wahr", "vrai", "verdadero", "vero", "waar"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0", "falsch", "faux", "falso", "onwaar"), False),
}


def split_kind(table: Table, index: int) -> str | None:
    """Return how a column gives the split: by "name", as a "boolean", maybe ("partly"), or None."""
    name, key = table.names[index], column_key(table.names[index])
    if key == "split":
        return "name"
    within = split_within(name)
    is_boolean = within is not None and within[1] in ("", "is")
    if not table.holds_text_or_numbers(index):
        return None
    values = table.column(index)
    if is_boolean and key not in SPLIT_COLUMNS:
        wrong = next((row for row, value in enumerate(values) if _boolean(value) is None), None)
        if within is not None and within[1] == "is" and wrong is not None:
            raise DataError(
                f"{table.source}, {table.where(wrong)}: {name} is {values[wrong]!r}; it must be true or false, 1 or 0."
            )
        if wrong is None and key == "valid":
            raise DataError(
                f"{table.source}: the column {name!r} may mark the validation photos or those that are sound. Name it "
                f"is_valid if it is the split, or leave it out with --ignore {argument(name)}."
            )
        if wrong is None:
            return "boolean"
    texts = {cell_text(value) for value in values if not _is_missing(value)} - {""}
    splits = {split_of(text) for text in texts}
    if key in SPLIT_COLUMNS:
        return "name" if splits - {None} else None
    # A column of another name is a split if all its values are names of splits.
    if "train" in splits and len(splits) > 1 and None not in splits:
        return "name"
    few = [split_within(text) for text in texts] if len(texts) <= 20 else []
    near = {found[0] for found in few if found and not found[1]}  # also `TestSet`
    return "partly" if "train" in near and len(near) > 1 else None


def split_text(table: Table, index: int, row: int, value: Any) -> str | None:
    """Return the split of a row as written, or None."""
    text = "" if _is_missing(value) else cell_text(value)
    if not is_text(text):
        raise DataError(
            f"{table.source}, {table.where(row)}: the split {as_latin1(text)} is no text in UTF-8. {SAVE_AS_UTF8}"
        )
    return text or None


def parse_split(text: str, where: str) -> str:
    """Return the split that a value is a spelling of, or raise a DataError."""
    found = split_of(text)
    if found is None:
        spellings = [spelling for group in SPLIT_SPELLINGS.values() for spelling in group]
        hint = suggest(text, spellings)
        out = f"Leave such rows out with --ignore {argument(text)}." if text.isprintable() else ""
        wrong = f"{where}: the split is {text!r}; it must be train, val, test or empty."
        raise DataError(" ".join(filter(None, [wrong, hint, out])))
    return found


def splits_from_booleans(table: Table, indices: Sequence[int]) -> list[str]:
    """Return the split of each row from columns such as is_valid and is_test; train if none is true."""
    found: list[str | None] = [None] * table.rows
    trained = False
    for index in indices:
        within = split_within(table.names[index])
        split = within[0] if within is not None else "train"
        trained = trained or split == "train"
        for row, value in enumerate(table.column(index)):
            if _boolean(value):
                if found[row] not in (None, split):
                    raise DataError(
                        f"{table.source}, {table.where(row)}: it is in {found[row]} and in {split}, by "
                        f"{column_list([table.names[i] for i in indices])}."
                    )
                found[row] = split
    if trained and None in found and len(indices) > 1:
        names = column_list([table.names[i] for i in indices])
        raise DataError(f"{table.source}, {table.where(found.index(None))}: it is in no split, by {names}.")
    return [split or ("test" if trained else "train") for split in found]


def _boolean(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return _BOOLEANS.get(str(value).strip().casefold())


def _is_missing(value: Any) -> bool:
    return value is None or value != value


def cell_text(value: Any) -> str:
    """Return a value as text without outer white space."""
    return tidy(str(value))


def column_list(names: Sequence[str]) -> str:
    """Format as `"the columns 'a' and 'b'"`."""
    return f"the column{'s' if len(names) > 1 else ''} {quoted_list(names)}"


def quoted_list(names: Sequence[str]) -> str:
    """Format as `"'a', 'b' and 'c'"`."""
    shown = list(dict.fromkeys(repr(name) if name else "without a name" for name in names))
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
