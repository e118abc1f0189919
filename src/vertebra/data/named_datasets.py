"""Named data sets: scikit-learn's digits, and those that torchvision downloads.

Each is written to the cache once as class folders, which are then read like any other.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vertebra.cache import cache_dir, creation_lock
from vertebra.errors import require_extra

from .class_folders import read_folder
from .dataset import DataError, Dataset

_Splits: TypeAlias = dict[str | None, dict[str, Any]]  # the arguments that give each split


def _named_splits(*names: str) -> _Splits:
    return {name: {"split": name} for name in names}


_WHOLE: _Splits = {None: {}}
_TRAIN_AND_TEST: _Splits = {"train": {"train": True}, "test": {"train": False}}

# Name → class of torchvision.datasets, its splits.
_TORCHVISION: dict[str, tuple[str, _Splits]] = {
    "caltech101": ("Caltech101", _WHOLE),
    "caltech256": ("Caltech256", _WHOLE),
    "cifar10": ("CIFAR10", _TRAIN_AND_TEST),
    "cifar100": ("CIFAR100", _TRAIN_AND_TEST),
    "dtd": ("DTD", _named_splits("train", "val", "test")),
    "eurosat": ("EuroSAT", _WHOLE),
    "fashion_mnist": ("FashionMNIST", _TRAIN_AND_TEST),
    "fgvc_aircraft": ("FGVCAircraft", _named_splits("train", "val", "test")),
    "flowers102": ("Flowers102", _named_splits("train", "val", "test")),
    "food101": ("Food101", _named_splits("train", "test")),
    "gtsrb": ("GTSRB", _named_splits("train", "test")),
    "imagenette": ("Imagenette", _named_splits("train", "val")),
    "mnist": ("MNIST", _TRAIN_AND_TEST),
    "oxford_iiit_pet": ("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "stl10": ("STL10", _named_splits("train", "test")),
    "svhn": ("SVHN", _named_splits("train", "test")),
}

NAMES = ("digits", *_TORCHVISION)


def read_named(name: str, *, ignore: Sequence[str] = ()) -> Dataset:
    """Read a named data set; the first call downloads and unpacks it."""
    folder = cache_dir() / "datasets" / name
    if not folder.is_dir():
        # One process at a time: torchvision downloads into a folder that two would write to.
        with creation_lock(folder.with_name(f"{name}.made")):
            if not folder.is_dir():
                _write_folder(folder, _digits() if name == "digits" else _download(name))
    return replace(read_folder(folder, ignore=ignore), name=name)


# (split or None, class, the picture or its file)
_Items: TypeAlias = Iterator[tuple[str | None, str, Image.Image | Path]]


def _write_folder(folder: Path, items: _Items) -> None:
    """Write the class folders atomically."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write_photos(items, temporary)
            os.replace(temporary, folder)  # noqa: PTH105 - of a folder
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if not folder.is_dir():  # another process may have written it meanwhile
            raise DataError(f"{folder} cannot be written ({error.strerror or error}).") from error


def _write_photos(items: _Items, to: Path) -> None:
    for number, (split, label, picture) in enumerate(items):
        folder = to / (split or "") / label
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(picture, Path):
            try:
                os.link(picture, folder / f"{number:06d}{picture.suffix}")
            except OSError:
                shutil.copyfile(picture, folder / f"{number:06d}{picture.suffix}")
        else:
            picture.save(folder / f"{number:06d}.png")


def digit_pixels() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """scikit-learn's 1,797 handwritten digits of 8 × 8 pixels and 17 levels of grey: (N, 8, 8) and labels (N,)."""
    with require_extra("train", "the data set digits"):
        from sklearn.datasets import load_digits
    digits = load_digits()
    return (digits.images * (255 / 16)).round().astype(np.uint8), digits.target.astype(np.int64)


def _digits() -> _Items:
    for values, label in zip(*digit_pixels(), strict=True):
        yield None, str(label), Image.fromarray(values)


def _download(name: str) -> _Items:
    with require_extra("train", f"the data set {name}"):
        from torchvision import datasets
    kind, splits = _TORCHVISION[name]
    root = cache_dir() / "downloads" / name
    root.mkdir(parents=True, exist_ok=True)
    for split, arguments in splits.items():
        try:
            found = getattr(datasets, kind)(root, download=True, **arguments)
        except Exception as error:
            # torchvision has no exception class of its own for failed downloads.
            raise DataError(
                f"{name} cannot be downloaded ({' '.join(str(error).split()) or type(error).__name__}). If you have a "
                "copy, give its folder instead of the name."
            ) from error
        files = _files(found)
        for index in range(len(found)):
            if files is not None:
                yield split, _class_name(found, files[index][1]), Path(files[index][0])
            else:
                picture, target = found[index]
                yield split, _class_name(found, target), picture


def _files(found: Any) -> list[tuple[Any, int]] | None:
    """Return (file, target) of each photo, or None if torchvision's data set has no files."""
    for attribute in ("_samples", "samples", "imgs"):
        pairs = getattr(found, attribute, None)
        if isinstance(pairs, list) and pairs and len(pairs) == len(found):
            return pairs
    for attribute in ("_image_files", "_images"):
        paths, labels = getattr(found, attribute, None), getattr(found, "_labels", None)
        if paths is not None and labels is not None and len(paths) == len(labels) == len(found):
            return list(zip(paths, labels, strict=True))
    return None


def _class_name(found: Any, target: int) -> str:
    """Return the folder's name for a target: the class name if torchvision has it, or its number."""
    known = getattr(found, "categories", None) or getattr(found, "classes", None)
    label = known[target] if known is not None and target < len(known) else str(target)
    if isinstance(label, tuple | list):  # Imagenette has several names of a class
        label = label[0]
    return str(label).replace("/", "-").replace("\\", "-").strip(". ") or str(target)
