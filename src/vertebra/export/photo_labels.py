"""Labels of calibration photos from their folders, and a check that the class names are in the network's order."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from vertebra.errors import UsageError, suggest
from vertebra.imagenet import is_imagenet, wnids

from .onnx_model import Array

_WNID_PREFIX = re.compile(r"n\d{8}(?=_|$)")


def labels_of(paths: Sequence[PurePath], classes: Sequence[str] | None, count: int) -> list[frozenset[int]] | None:
    """Read the correct classes of photos from their relative paths; None if no folder names a class.

    A folder is a class name, a class number or an ImageNet id (n01440764). Photos named as in ImageNet
    (n01440764_36.JPEG) need no folders.

    Raises:
        UsageError: some folders name classes, and others do not.
    """
    known = _known_classes(classes, count)
    keys = [_class_key(path, known) for path in paths]
    missing = sorted({key for key in keys if key not in known})
    if len(missing) == len(set(keys)):
        return None
    if missing:
        raise UsageError(
            f"the folder {missing[0]!r} is no class of the network"
            f"{f', nor are {len(missing) - 1} others' if len(missing) > 1 else ''}, while other folders are. "
            f"{suggest(missing[0], known)} Rename it, or put all photos into one folder to do without labels."
        )
    return [known[key] for key in keys]


def _class_key(path: PurePath, known: Mapping[str, frozenset[int]]) -> str:
    folder = _normalise(path.parts[-2]) if len(path.parts) > 1 else ""
    wnid = _WNID_PREFIX.match(path.name)
    return wnid[0] if folder not in known and wnid and wnid[0] in known else folder


def _known_classes(classes: Sequence[str] | None, count: int) -> dict[str, frozenset[int]]:
    known = {str(i): frozenset([i]) for i in range(count)}
    if classes is not None:
        for i, name in enumerate(classes):
            known[_normalise(name)] = (
                known.get(_normalise(name), frozenset()) | {i} if not name.isdigit() else frozenset([i])
            )
        if is_imagenet(classes):
            known |= {wnid: frozenset([i]) for i, wnid in enumerate(wnids())}
    return known


def _normalise(name: str) -> str:
    """Normalise case, separators and Unicode: `Golden_Retriever` is `golden retriever`."""
    return " ".join(unicodedata.normalize("NFC", name).lower().replace("_", " ").replace("-", " ").split())


def require_class_order(predicted: Array, labels: Sequence[frozenset[int]], classes: Sequence[str] | None) -> None:
    """Raise a `UsageError` if class names are in the wrong order, as opposed to a network that is merely inaccurate.

    They are if nearly all photos of a class get one prediction, each class another, and most of these are wrong. With
    fewer than 3 photos per class on average, or one class, nothing is checked.
    """
    answers: dict[frozenset[int], list[int]] = {}
    for right, choice in zip(labels, predicted, strict=True):
        answers.setdefault(right, []).append(int(choice))
    favourites = {right: max(set(found), key=found.count) for right, found in answers.items()}
    consistent = sum(found.count(favourites[right]) for right, found in answers.items()) / len(labels)
    wrong = {right: choice for right, choice in favourites.items() if choice not in right}
    distinct = len(set(favourites.values())) == len(favourites)
    enough = len(labels) >= 3 * len(answers) and len(answers) > 1
    if enough and distinct and consistent > 0.8 and len(wrong) > len(favourites) / 2:
        right, choice = next(iter(wrong.items()))
        names = [str(i) if classes is None else classes[i] for i in (min(right), choice)]
        raise UsageError(
            f"the classes seem to be in another order than the network's: photos in the folder {names[0]!r} are "
            f"nearly all predicted as {names[1]!r}. Give the classes in the order of the training (--classes)."
        )
