"""What the probe should get of a photo: its middle, its shorter side, all of it, or its mirror image as well.

Each photo of Caltech-101 is predicted by a head that has seen neither it nor its mirror image. Ten photos a class stand
for the small data sets that most people have.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import _common
import numpy as np

from vertebra.card import Preprocessing
from vertebra.data import open_dataset
from vertebra.loading import cached_export
from vertebra.pixels import network_pixels
from vertebra.prefetch import read_ahead
from vertebra.runtime.engine import EMBEDDING
from vertebra.runtime.predictor import Predictor
from vertebra.train.linear_head import cross_validate
from vertebra.train.temperature import cross_entropy, fit_temperature

DATA = _common.ROOT.parent / "shared" / "data" / "caltech101"
MODEL = "efficientnet_lite0"
A_CLASS = 10  # photos of the small data set
FOLDS = 5


def features(predictor: Predictor, paths: list[str], preprocessing: Preprocessing, *, flip: bool) -> Any:
    """(N, D)."""
    runner = predictor.runner(predictor.batch)

    def work(part: Any) -> list[Any]:
        pixels = np.stack([network_pixels(path, preprocessing) for path in part])
        return list(runner.call(pixels[:, :, ::-1].copy() if flip else pixels, (EMBEDDING,))[0].copy())

    plan = runner.plan
    return np.stack(list(read_ahead(paths, list, work, workers=plan.lanes * plan.threads, chunk=plan.micro_batch)))


def judged(views: list[Any], labels: Any, places: Any, classes: int) -> dict[str, float]:
    """Top-1 and cross-entropy of the first view's photos, by heads fitted to all views of the others."""
    truth = np.tile(labels[places], len(views))
    folds = np.tile(np.random.default_rng(1).integers(0, FOLDS, len(places)), len(views))
    found = cross_validate(np.concatenate([view[places] for view in views]), truth, folds, classes)
    recipe, _ = found.recipe(np.nonzero(found.measurable)[0])
    logits = recipe.logits(found.softmax_logits, found.discriminant_logits)[: len(places)]
    truth = truth[: len(places)]
    loss = cross_entropy(logits / fit_temperature(logits, truth), truth)
    return {"n": len(places), "top1": round(float((logits.argmax(1) == truth).mean()), 4), "loss": round(loss, 4)}


def measure(only: list[str]) -> None:
    dataset = open_dataset(DATA)
    names = sorted({photo.label for photo in dataset.photos})
    labels = np.array([names.index(photo.label) for photo in dataset.photos])
    random = np.random.default_rng(0)
    few = np.concatenate([random.permutation(np.nonzero(labels == c)[0])[:A_CLASS] for c in range(len(names))])
    predictor = Predictor(cached_export(MODEL, "DEFAULT"))
    published = predictor.card.preprocessing
    whole = replace(published, resize_size=published.crop_size)
    ways = {"middle": published, "whole": whole, "squash": replace(whole, crop_mode="squash")}
    paths = [str(photo.path) for photo in dataset.photos]
    path = _common.RESULTS / "views.json"
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    rows = [row for row in known if row["view"] not in only]
    seen = {}
    for name, preprocessing in ((name, ways[name]) for name in only):
        for flip in (False, True):
            start = time.perf_counter()
            seen[name, flip] = features(predictor, paths, preprocessing, flip=flip)
            print(f"{name}, {'mirrored' if flip else 'as it is'}: {time.perf_counter() - start:.1f} s", flush=True)
    for name in only:
        for views in ([seen[name, False]], [seen[name, False], seen[name, True]]):
            row = {"view": name, "views": len(views), "few": judged(views, labels, few, len(names))}
            row["all"] = judged(views, labels, np.arange(len(labels)), len(names))
            rows.append(row)
            print(row, flush=True)
    rows.sort(key=lambda row: list(LABELS).index(row["view"]))
    _common.write("views", ("torch", "onnxruntime"), {"rows": rows})


LABELS = {
    "middle": "the middle 224 of 256 pixels",
    "whole": "the whole shorter side (the default)",
    "squash": "the whole photo, squashed to a square (the default from 2,000 photos on)",
}


def render(document: dict[str, Any]) -> str:
    lines = []
    for row in document["rows"]:
        label = LABELS[row["view"]] + (", and mirrored" if row["views"] > 1 else "")
        lines.append([label, *(f"{100 * row[k]['top1']:.1f} %, {row[k]['loss']:.3f}" for k in ("few", "all"))])
    counts = [document["rows"][0][key]["n"] for key in ("few", "all")]
    heads = ["Pixels given to the probe", *(f"top-1 and loss, {count:,} photos" for count in counts)]
    return f"{_common.table(heads, lines)}\n\n{_common.footnote(document)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="What the probe should see of a photo")
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    parser.add_argument("--only", nargs="+", choices=list(LABELS), default=list(LABELS), help="measure these again")
    options = parser.parse_args()
    if not options.table:
        if not DATA.is_dir():
            raise SystemExit(f"{DATA} is missing: there are no photos to measure on.")
        measure(options.only)
    text = render(_common.read("views"))
    _common.publish("views", text)
    print(text)


if __name__ == "__main__":
    main()
