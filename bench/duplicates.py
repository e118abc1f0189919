"""Duplicates: how many made copies of Caltech-101 photos are found, what else is joined, memory and time of a million.

Copies of some photos, one of each kind, are laid beside all 5,784 photos; a copy is found where it ends in the group of
its original. The groups that are found among the photos themselves are counted, and those whose photos, looked at by
eye, are not one photograph. A million photos are made of numbers: all the same picture, all different, or digits.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import _common
import numpy as np
from PIL import Image, ImageEnhance

from vertebra.data import Dataset, ImageInfo, ImageInfoCache, Photo, find_duplicates, open_dataset, read_image_info
from vertebra.data.duplicates import group_duplicates

DATA = _common.ROOT.parent / "shared" / "data" / "caltech101"
MANY = 1_000_000
SETS = ("same", "different", "digits")

# Pairs among the groups found in Caltech-101 that are two different pictures, by eye: motorbikes of another model in
# the same pose, and two drawings. Not among them: one photograph in other colours, and one man twice within a second
# (Faces and Faces_easy, image_0159 and image_0160).
UNRELATED = (
    ("Motorbikes/image_0717.jpg", "Motorbikes/image_0719.jpg"),
    ("Motorbikes/image_0728.jpg", "Motorbikes/image_0729.jpg"),
    ("Motorbikes/image_0737.jpg", "Motorbikes/image_0738.jpg"),
    ("Motorbikes/image_0074.jpg", "Motorbikes/image_0117.jpg"),
    ("yin_yang/image_0005.jpg", "yin_yang/image_0040.jpg"),
)


def crop(x: float, y: float, width: float = 7 / 8, height: float = 7 / 8) -> Callable[[Image.Image], Image.Image]:
    def made(picture: Image.Image) -> Image.Image:
        w, h = round(picture.width * width), round(picture.height * height)
        left, top = round((picture.width - w) * x), round((picture.height - h) * y)
        return picture.crop((left, top, left + w, top + h))

    return made


def turned(way: Image.Transpose, first: Callable[[Image.Image], Image.Image] = lambda picture: picture) -> Any:
    return lambda picture: first(picture).transpose(way)


MIRROR = Image.Transpose.FLIP_LEFT_RIGHT
KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": turned(MIRROR),
    "mirrored top to bottom": turned(Image.Transpose.FLIP_TOP_BOTTOM),
    "rotated by 90°": turned(Image.Transpose.ROTATE_90),
    "rotated by 180°": turned(Image.Transpose.ROTATE_180),
    "rotated by 270°": turned(Image.Transpose.ROTATE_270),
    "cropped to 7/8, centre": crop(0.5, 0.5),
    "cropped to 7/8, top left": crop(0, 0),
    "cropped to 7/8, top right": crop(1, 0),
    "cropped to 7/8, bottom left": crop(0, 1),
    "cropped to 7/8, bottom right": crop(1, 1),
    "cropped to 15/16, anywhere": lambda p: crop(random.random(), random.random(), 15 / 16, 15 / 16)(p),
    "cropped to 7/8 of the width": crop(0, 0, 7 / 8, 1),
    "mirrored, cropped to 7/8, centre": turned(MIRROR, crop(0.5, 0.5)),
    "mirrored, cropped to 7/8, corner": turned(MIRROR, crop(1, 0)),
    "rotated by 90°, cropped to 7/8": turned(Image.Transpose.ROTATE_90, crop(0, 1)),
    "recompressed at quality 40": lambda picture: picture,
    "half the size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "30 % brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.3),
    "30 % darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.7),
    "30 % more contrast": lambda picture: ImageEnhance.Contrast(picture).enhance(1.3),
}


def copies(n: int, folder: Path) -> dict[str, Any]:
    """The share of made copies that are found, for each kind."""
    random.seed(0)
    dataset = open_dataset(DATA)
    chosen = random.sample(range(len(dataset.photos)), n)
    photos = list(dataset.photos)
    owners = []
    for name, make in KINDS.items():
        for index in chosen:
            photo = dataset.photos[index]
            path = folder / f"{len(photos)}.jpg"
            picture = Image.open(photo.path).convert("RGB")
            make(picture).save(path, quality=40 if "40" in name else 90)
            photos.append(Photo(path, photo.label))
            owners.append((name, index))
    every = replace(dataset, photos=tuple(photos))
    cache = ImageInfoCache(folder / "cache")
    group_of = {}
    for number, group in enumerate(find_duplicates(every, read_image_info(every, cache), cache)):
        group_of.update(dict.fromkeys(group.members, number))
    found = Counter(
        name
        for place, (name, index) in enumerate(owners, len(dataset.photos))
        if place in group_of and group_of[place] == group_of.get(index)
    )
    return {name: {"n": n, "found": found[name], "share": round(found[name] / n, 4)} for name in KINDS}


def joined(folder: Path) -> dict[str, Any]:
    """What is joined among Caltech's own photos and among scikit-learn's digits, and how long it takes."""
    results = {}
    for name, data in (("caltech101", DATA), ("digits", "digits")):
        dataset: Dataset = open_dataset(data)
        cache = ImageInfoCache(folder / "cache")
        infos = read_image_info(dataset, cache)
        start = time.perf_counter()
        groups = find_duplicates(dataset, infos, cache)
        seconds = time.perf_counter() - start
        paths = [tuple(dataset.shown(dataset.photos[place].path) for place in group.members) for group in groups]
        unrelated = {path for pair in UNRELATED if any(set(pair) <= set(group) for group in paths) for path in pair}
        largest = max(map(len, paths), default=0)
        results[name] = {
            "photos": len(infos),
            "seconds": round(seconds, 1),
            "groups": len(groups),
            "largest": largest,
            "largest_share": round(largest / len(infos), 4),
            "joined": sum(map(len, paths)),
            "unrelated": len(unrelated) if name == "caltech101" else None,
            "unrelated_share": round(len(unrelated) / len(infos), 4) if name == "caltech101" else None,
        }
    return results


def made_photos(kind: str, count: int) -> tuple[list[ImageInfo], Callable[[int], Any]]:
    """Image infos and thumbnails of so many photos."""
    random_ = np.random.default_rng(0)
    same = random_.integers(0, 256, (16, 16), dtype=np.uint8)
    if kind == "digits":
        from sklearn.datasets import load_digits

        digits = np.kron(load_digits().images * 15, np.ones((2, 2))).astype(np.uint8)

    def coarse(place: int) -> Any:
        own = np.random.default_rng(place)
        if kind == "same":
            return same
        if kind == "digits":
            noise = own.integers(0, 25, (16, 16))
            return np.clip(np.roll(digits[place % len(digits)], own.integers(-1, 2, 2), (0, 1)) + noise, 0, 255)
        return own.integers(0, 256, (16, 16))

    def thumbnail(place: int) -> Any:
        noise = np.random.default_rng(place).integers(0, 8, (64, 64))
        return np.clip(np.kron(coarse(place), np.ones((4, 4))) + noise, 0, 255).astype(np.uint8)

    side = 28 if kind == "digits" else 224
    looks = (coarse(place).astype(np.uint8).tobytes() for place in range(count))
    return [ImageInfo(f"{place:064x}", side, side, look) for place, look in enumerate(looks)], thumbnail


def many(kind: str, count: int) -> None:
    """Run in a process of its own: prints seconds, megabytes and groups."""
    infos, thumbnail = made_photos(kind, count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    groups = group_duplicates(infos, thumbnail)
    seconds = time.perf_counter() - start
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        count, round(seconds), round(extra * 1024 / 1e6), len(groups), max((len(g.members) for g in groups), default=0)
    )


def measured(n: int) -> Iterator[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        yield "joined", joined(Path(folder))
        yield "copies", copies(n, Path(folder))
    rows = {}
    for kind in SETS:
        command = [sys.executable, __file__, "--many", kind, str(MANY)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        names = ("photos", "seconds", "extra_mb", "groups", "largest")
        rows[kind] = dict(zip(names, map(int, done.stdout.split()), strict=True))
    yield "many", rows


def measure(n: int) -> Path:
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is missing: there are no photos to measure on.")
    results = {}
    for name, part in measured(n):
        results[name] = part
        print(name, part, flush=True)
    return _common.write("duplicates", ("numpy", "pillow"), results)


def render(document: dict[str, Any]) -> str:
    lines = [[name, row["n"], f"{100 * row['share']:.1f} %"] for name, row in document["copies"].items()]
    text = _common.table(["Copies of Caltech-101 photos", "made", "found"], lines)
    lines = [[kind, *row.values()] for kind, row in document["many"].items()]
    more = _common.table(["Photos", "n", "seconds", "further memory, MB", "groups", "largest"], lines)
    return f"{text}\n\n{more}\n\n{_common.footnote(document)}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--many"]:
        many(sys.argv[2], int(sys.argv[3]))
    else:
        _common.main("duplicates", measure, render, n=300)
