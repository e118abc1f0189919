"""What the figures and the confidence of a classifier from few photos are worth, before the priors and after.

Small sets are drawn from Caltech-101, copies left out. For each a probe is fitted, with its temperature and its
threshold, and judged on photos that it has not seen: the other photos of its classes, and photos of classes that it
does not know. "Before" is what was done until then: temperatures of the highest likelihood, the strength chosen by one
fold, the lowest threshold whose share of right answers is the target, and all of it measured on the photos that it was
fitted to.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import _common
import numpy as np
from numpy.typing import NDArray

from vertebra.card import read_card
from vertebra.data import find_duplicates, open_dataset
from vertebra.loading import cached_export
from vertebra.machine import affinity_cores
from vertebra.train.dataset_features import compute_features
from vertebra.train.linear_head import SHARES, Recipe, choose_strength, cross_validate, fit_discriminant
from vertebra.train.metrics import expected_calibration_error
from vertebra.train.prepare import run_preprocessing
from vertebra.train.temperature import NO_PRIOR, PRIOR, Prior, cross_entropy, fit_temperature, posterior_loss, softmax
from vertebra.train.thresholds import cross_fit, fit_threshold
from vertebra.train.train_settings import Settings

DATA = _common.ROOT.parent / "shared" / "data" / "caltech101"
MODEL = "efficientnet_lite0"
FOLDS = 5
FOREIGN = 300  # photos of other classes, for each set
MOST_OF_A_CLASS = 60  # photos of the rest, for each class
LEFT = 10  # photos of a class that are always left to judge by
TARGET = 0.95
SIZES = {60: (6, 60), 200: (10, 40), 1000: (25, 10)}  # photos -> classes, draws
BEFORE = "before"
LAPLACE = "no prior, labels smoothed"
OPTIONS: dict[str, Prior | None] = {
    BEFORE: None,
    "no prior": NO_PRIOR,
    LAPLACE: NO_PRIOR,
    "prior 0.5 / 0.5 / 2": Prior(0.5, 0.5, 2.0),
    "prior 0.25 / 1 / 2": PRIOR,
}
AFTER = next(name for name, prior in OPTIONS.items() if prior == PRIOR)


@dataclass(frozen=True)
class Photos:
    """Features (N, D) and classes (N,)."""

    features: Any
    labels: Any


@dataclass(frozen=True)
class Found:
    """Calibrated probabilities (N, K)."""

    own: Any  # of the set's own photos, as they are reported
    answered: NDArray[np.bool_]  # which of them
    rest: Any  # of the other photos of its classes
    foreign: Any  # of photos of other classes
    threshold: float


def all_photos() -> Photos:
    """Of Caltech-101 each once; computed features are kept in the cache."""
    dataset = open_dataset(DATA)
    body = cached_export(MODEL, "DEFAULT")
    view = run_preprocessing(Settings(data=str(DATA)), read_card(body).preprocessing)
    seen = compute_features(dataset, body, view)
    names = sorted({photo.label for photo in dataset.photos})
    copies = {place for group in find_duplicates(dataset, seen.infos) for place in sorted(group.members)[1:]}
    kept = np.array([i for i in range(len(dataset.photos)) if i not in copies])
    labels = np.array([names.index(dataset.photos[i].label) for i in kept])
    return Photos(seen.features[kept], labels)


def drawn(photos: Photos, random: Any, classes: int, each: int) -> tuple[Photos, Photos, Photos, Any]:
    """A set, the rest of its classes, photos of other classes, and the set's folds."""
    chosen = random.permutation(photos.labels.max() + 1)[:classes]
    own, rest = [], []
    for number in chosen:
        places = random.permutation(np.nonzero(photos.labels == number)[0])
        count = min(each, len(places) - LEFT)
        own += places[:count].tolist()
        rest += places[count:][:MOST_OF_A_CLASS].tolist()
    others = random.permutation(np.nonzero(~np.isin(photos.labels, chosen))[0])[:FOREIGN]
    place_of = {int(number): place for place, number in enumerate(chosen)}

    def part(places: Any, known: bool = True) -> Photos:
        labels = photos.labels[places]
        return Photos(photos.features[places], np.array([place_of[int(n)] for n in labels]) if known else labels)

    folds = np.empty(len(own), np.int64)
    folds[random.permutation(len(own))] = np.arange(len(own)) % FOLDS
    return part(own), part(rest), part(others, known=False), folds


def before(own: Photos, rest: Photos, foreign: Photos, folds: Any, classes: int) -> Found:
    """Without a prior, and measured on what it was fitted to."""
    labels = own.labels
    out = folds == 0  # a largest one
    parts = [((own.features[~out], labels[~out]), (own.features[out], labels[out]))]
    strength, _, _ = choose_strength(parts, classes, NO_PRIOR)
    one, other = (np.zeros((len(labels), classes), np.float32) for _ in range(2))
    for fold in range(FOLDS):
        out = folds == fold
        one[out] = _softmax_head(own, ~out, classes, strength).logits(own.features[out])
        other[out] = fit_discriminant(own.features[~out], labels[~out], classes).logits(own.features[out])
    factors = [1 / fit_temperature(logits, labels, NO_PRIOR) for logits in (one, other)]
    tried = []
    for share in SHARES:
        recipe = Recipe(strength, (1 - share) * factors[0], share * factors[1])
        temperature, loss = posterior_loss(recipe.logits(one, other), labels, NO_PRIOR)
        tried.append((loss, share, recipe, temperature))
    _, _, recipe, temperature = min(tried, key=lambda entry: entry[:2])
    reported = softmax(recipe.logits(one, other) / temperature)
    head = recipe.fit(own.features, labels, classes)
    threshold = threshold_before(reported, labels, TARGET)
    answered = reported.max(axis=1) >= threshold
    return Found(
        reported, answered, *(softmax(head.logits(p.features) / temperature) for p in (rest, foreign)), threshold
    )


def _softmax_head(photos: Photos, places: Any, classes: int, strength: float) -> Any:
    return Recipe(strength).fit(photos.features[places], photos.labels[places], classes)


def threshold_before(probabilities: Any, labels: Any, target: float) -> float:
    """The lowest whose answers were right as often as wanted; 0, which answers always, where there is none."""
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    shares = np.cumsum(right) / np.arange(1, len(right) + 1)
    enough = np.nonzero((shares >= target) & np.append(np.diff(confidence[order]) < 0, True))[0]
    if not len(enough) or enough[-1] == len(right) - 1:
        return 0.0
    return float(confidence[order[enough[-1]]] + confidence[order[enough[-1] + 1]]) / 2


def after(
    own: Photos, rest: Photos, foreign: Photos, folds: Any, classes: int, prior: Prior, *, smoothed: bool = False
) -> Found:
    """As it is now, with a prior of any width."""
    found = cross_validate(own.features, own.labels, folds, classes, prior=prior)

    def fitted(places: Any) -> tuple[Recipe, float]:
        recipe, temperature = found.recipe(places, prior)
        if smoothed:
            logits = recipe.logits(found.softmax_logits[places], found.discriminant_logits[places])
            temperature = smoothed_temperature(logits, own.labels[places])
        return recipe, temperature

    def fit(places: Any) -> Callable[[Any], Any]:
        recipe, temperature = fitted(places)
        return lambda others: softmax(
            recipe.logits(found.softmax_logits[others], found.discriminant_logits[others]) / temperature
        )

    every = np.arange(len(own.labels))
    reported, answered = cross_fit(fit, own.labels, folds, (TARGET,))
    threshold = fit_threshold(fit(every)(every), own.labels, TARGET).value or 0.0
    recipe, temperature = fitted(every)
    head = recipe.fit(own.features, own.labels, classes)
    return Found(
        reported, answered[:, 0], *(softmax(head.logits(p.features) / temperature) for p in (rest, foreign)), threshold
    )


def smoothed_temperature(logits: Any, labels: Any) -> float:
    """The likeliest where each of n labels counts (n + 1) / (n + 2), as Platt (1999) has it; the rest is spread."""
    n, classes = logits.shape
    own, rest = (n + 1) / (n + 2), 1 / (n + 2) / (classes - 1)
    targets = np.full((n, classes), rest)
    targets[np.arange(n), labels] = own
    tried = np.geomspace(0.05, 20, 400)
    losses = [-(targets * np.log(np.maximum(softmax(logits / t), 1e-300))).sum(axis=1).mean() for t in tried]
    return float(tried[int(np.argmin(losses))])


def found_by(name: str, *arguments: Any) -> Found:
    """The result of one of `OPTIONS`."""
    prior = OPTIONS[name]
    return before(*arguments) if prior is None else after(*arguments, prior, smoothed=name == LAPLACE)


def judged(found: Found, rest: Photos) -> dict[str, float]:
    """One set, on photos that it had not seen."""
    foreign = found.foreign.max(axis=1)
    right = found.rest.argmax(axis=1) == rest.labels
    kept = found.rest.max(axis=1) >= found.threshold
    return {
        "loss": _loss(found.rest, rest.labels),
        "top1": float(right.mean()),
        "ece": float(expected_calibration_error(found.rest, rest.labels) or 0.0),
        "answered": float(kept.mean()),
        "precision": float(right[kept].mean()) if kept.any() else 1.0,
        "foreign_median": float(np.median(foreign)),
        "foreign_above_0.95": float((foreign > 0.95).mean()),
        "foreign_answered": float((foreign >= found.threshold).mean()),
    }


def _loss(probabilities: Any, labels: Any) -> float:
    return cross_entropy(np.log(np.maximum(probabilities, 1e-12)), labels)


def optimism(found: Found, own: Photos, rest: Photos) -> dict[str, float]:
    """What is reported of a set less what is true on the rest."""
    right = found.own.argmax(axis=1) == own.labels
    truth = judged(found, rest)
    return {
        "top1": float(right.mean()) - truth["top1"],
        "nll": _loss(found.own, own.labels) - truth["loss"],
        "ece": float(expected_calibration_error(found.own, own.labels) or 0.0) - truth["ece"],
        "precision": (float(right[found.answered].mean()) if found.answered.any() else 1.0) - truth["precision"],
        "coverage": float(found.answered.mean()) - truth["answered"],
    }


def mean(values: list[float]) -> dict[str, float]:
    """With a 95 % interval of the mean over the draws."""
    spread = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    middle = float(np.mean(values))
    return {"mean": round(middle, 4), "low": round(middle - spread, 4), "high": round(middle + spread, 4)}


_PHOTOS: list[Photos] = []  # of a process


def _begin(photos: Photos) -> None:
    import torch

    torch.set_num_threads(1)
    _PHOTOS.append(photos)


def small_set(number: int) -> dict[str, tuple[dict[str, float], Any]]:
    """Of each option its figures, and how sure it is of photos of other classes."""
    random = np.random.default_rng([0, number])
    classes, each = int(random.integers(2, 11)), int(random.integers(5, 31))
    own, rest, foreign, folds = drawn(_PHOTOS[0], random, classes, each)
    result = {}
    for name in OPTIONS:
        found = found_by(name, own, rest, foreign, folds, classes)
        result[name] = judged(found, rest) | {"photos": len(own.labels)}, found.foreign.max(axis=1)
    return result


def optimistic_set(asked: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Before and after, what is reported less what is true, of one set of that size."""
    size, number = asked
    classes, _ = SIZES[size]
    random = np.random.default_rng([1, size, number])
    own, rest, foreign, folds = drawn(_PHOTOS[0], random, classes, size // classes)
    return {name: optimism(found_by(name, own, rest, foreign, folds, classes), own, rest) for name in (BEFORE, AFTER)}


def measure(n: int) -> Path:
    photos = all_photos()
    gaps: dict[str, Any] = {}
    with ProcessPoolExecutor(affinity_cores(), get_context("spawn"), _begin, (photos,)) as pool:
        sets = []
        for found in pool.map(small_set, range(n)):
            sets.append(found)
            if len(sets) % 20 == 0:
                print(f"{len(sets)} sets", flush=True)
        for size, (classes, draws) in SIZES.items():
            rows = list(pool.map(optimistic_set, [(size, number) for number in range(draws)]))
            gaps[str(size)] = {"classes": classes, "draws": draws} | {
                name: {key: mean([row[name][key] for row in rows]) for key in rows[0][name]} for name in (BEFORE, AFTER)
            }
            print(size, gaps[str(size)], flush=True)
    photo_counts = [found[AFTER][0].pop("photos") for found in sets]
    return _common.write(
        "small",
        ("torch", "numpy"),
        {
            "sets": n,
            "photos": {"min": min(photo_counts), "max": max(photo_counts)},
            "target_precision": TARGET,
            "options": {
                name: {key: mean([found[name][0][key] for found in sets]) for key in sets[0][AFTER][0]}
                for name in OPTIONS
            },
            "foreign_quantiles": {
                name: np.quantile(np.concatenate([found[name][1] for found in sets]), np.linspace(0, 1, 101))
                .round(4)
                .tolist()
                for name in (BEFORE, AFTER)
            },
            "optimism": gaps,
        },
    )


def draw(document: dict[str, Any], path: Path) -> None:
    """How sure the classifiers are of photos of other classes, and what is reported less what is true."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 4, figsize=(14, 4), layout="constrained")
    colours = {BEFORE: "0.55", AFTER: "tab:blue"}
    shares = np.linspace(0, 1, 101)
    for name, values in document["foreign_quantiles"].items():
        panels[0].plot(values, shares, color=colours[name], label="before" if name == BEFORE else "after")
    panels[0].set(
        xlabel="confidence", ylabel="share of photos below it", title="Photos of classes that were not trained"
    )
    panels[0].legend(frameon=False)
    sizes = list(document["optimism"])
    for panel, (key, title) in zip(
        panels[1:],
        (("nll", "loss"), ("ece", "calibration error (ECE)"), ("precision", f"precision, target {TARGET}")),
        strict=True,
    ):
        for shift, name in ((-0.1, BEFORE), (0.1, AFTER)):
            found = [document["optimism"][size][name][key] for size in sizes]
            middles = [entry["mean"] for entry in found]
            errors = [
                [entry["mean"] - entry["low"] for entry in found],
                [entry["high"] - entry["mean"] for entry in found],
            ]
            places = [place + shift for place in range(len(sizes))]
            panel.errorbar(places, middles, errors, fmt="o", capsize=3, color=colours[name])
        panel.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        panel.set(xlabel="photos of the set", ylabel="reported less true", title=title)
        panel.set_xticks(range(len(sizes)), [f"{int(size):,}" for size in sizes])
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def render(document: dict[str, Any]) -> str:
    def shown(entry: dict[str, float], digits: int = 1) -> str:
        return f"{100 * entry['mean']:.{digits}f} %"

    options = [
        [
            name,
            f"{found['loss']['mean']:.3f}",
            *(shown(found[key]) for key in ("top1", "ece", "foreign_above_0.95")),
            f"{found['foreign_median']['mean']:.2f}",
            *(shown(found[key]) for key in ("answered", "precision", "foreign_answered")),
        ]
        for name, found in document["options"].items()
    ]
    heads = [
        f"{document['sets']} sets of {document['photos']['min']} to {document['photos']['max']} photos", "loss",
        "top-1", "ECE", "foreign above 0.95", "their median", "own answered", "precision", "foreign answered",
    ]  # fmt: skip
    gaps = [
        [f"{int(size):,} photos, {label}", *(_gap(row[name][key]) for key in ("top1", "nll", "ece", "precision"))]
        for size, row in document["optimism"].items()
        for label, name in (("before", BEFORE), ("after", AFTER))
    ]
    below = _common.table(["reported less true", "top-1", "loss", "ECE", "precision"], gaps)
    return f"{_common.table(heads, options)}\n\n{below}\n\n{_common.footnote(document)}"


def _gap(entry: dict[str, float]) -> str:
    return f"{entry['mean']:+.3f} ({entry['low']:+.3f} to {entry['high']:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=200, help="small sets to draw (default 200)")
    parser.add_argument("--table", action="store_true", help="only make table and drawing again from the JSON")
    options = parser.parse_args()
    if not options.table:
        if not DATA.is_dir():
            raise SystemExit(f"{DATA} is missing: there are no photos to draw sets from.")
        print(f"written: {measure(options.n).relative_to(_common.ROOT)}")
    draw(_common.read("small"), _common.RESULTS / "small.png")
    text = render(_common.read("small"))
    _common.publish("small", text)
    print(text)


if __name__ == "__main__":
    main()
