"""Parsing of the argument `classes`: a list, a mapping or a file → class names in the order of the logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

from vertebra import imagenet
from vertebra.errors import UsageError, warn
from vertebra.units import counted

ClassNames: TypeAlias = Iterable[str | int] | Mapping[str, int] | Mapping[int, str] | str | Path


def class_names(classes: ClassNames | None) -> Sequence[str] | None:
    """Parse class names in the order of the logits: a list, a mapping, a text file with one a line, or "imagenet".

    Args:
        classes: a mapping gives each name its index, as `ImageFolder.class_to_idx` does, or each index its name, as
            `id2label` does. Whole numbers in a list are names.

    Raises:
        UsageError: the file cannot be read or has no names, a name is no text, or the order is unknown.
    """
    if classes is None:
        return None
    if isinstance(classes, str | Path):
        return _read_names(classes)
    if isinstance(classes, set | frozenset):
        raise UsageError("classes is a set, which has no order. Give a list of names in the order of the logits.")
    if isinstance(classes, Mapping):
        classes = _names_by_index(classes)
    try:
        given = list(classes)
    except TypeError:
        raise UsageError(
            f"classes is {classes!r}; give a list of names in the order of the logits, a mapping of name to index, a "
            "text file with one name a line, or imagenet."
        ) from None
    for index, name in enumerate(given):
        if not _is_name(name):
            raise UsageError(f"classes[{index}] is {name!r}; the name of a class is text. Give one for each logit.")
    names = [str(name) for name in given]
    _warn_of_duplicates(names)
    return names


def _read_names(classes: str | Path) -> Sequence[str]:
    if str(classes).lower() == "imagenet" and not Path(classes).is_file():
        return imagenet.class_names()
    try:
        names = [line.strip() for line in Path(classes).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the classes {str(classes)!r} cannot be read ({error}). Give a text file with one name a line, or "
            "imagenet."
        ) from error
    if not names:
        raise UsageError(f"the file {str(classes)!r} holds no names of classes. Give one with a name a line.")
    _warn_of_duplicates(names)
    return names


def _warn_of_duplicates(names: Sequence[str]) -> None:
    """Warn if several classes have the same name, except ImageNet's own duplicates."""
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        indices.setdefault(name, []).append(index)
    duplicates = [name for name, found in indices.items() if len(found) > 1]
    if duplicates and not imagenet.is_imagenet(names):
        first = indices[duplicates[0]]
        shown = " and ".join(map(str, first[:5])) + (" …" if len(first) > 5 else "")
        more = f" (and so with {counted(len(duplicates) - 1, 'other name')})" if len(duplicates) > 1 else ""
        warn(
            f"the classes {shown} are all named {duplicates[0]!r}{more}, so results cannot tell them apart. Give each "
            "a name of its own."
        )


def _is_name(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else _is_index(value)


def _is_index(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _names_by_index(classes: Mapping[Any, Any]) -> list[Any]:
    """Return the names of a mapping in the order of its indices: its values, or else its keys."""
    if all(map(_is_index, classes.values())):
        pairs = [(int(index), name) for name, index in classes.items()]
    elif all(_is_index(index) or (isinstance(index, str) and index.isdecimal()) for index in classes):
        pairs = [(int(index), name) for index, name in classes.items()]  # JSON turns the keys into text
    else:
        pairs = []
    pairs.sort(key=lambda pair: pair[0])
    if [index for index, _ in pairs] != list(range(len(classes))):
        raise UsageError(
            f"classes is a mapping whose indices are not 0 to {len(classes) - 1}, each once. Give a list of names in "
            "the order of the logits, or a mapping of each name to its index."
        )
    return [name for _, name in pairs]


def require_same_order(given: Sequence[str], categories: Sequence[str]) -> None:
    """Raise a `UsageError` if `given` are the names of the weights in another order; other names are allowed."""
    if list(given) != list(categories) and sorted(given) == sorted(categories):
        at = next(i for i, (a, b) in enumerate(zip(given, categories, strict=True)) if a != b)
        raise UsageError(
            f"the classes are those of the weights in another order: class {at} is {given[at]!r} in the list and "
            f"{categories[at]!r} in the weights. Leave the list out; the weights bring theirs."
        )
