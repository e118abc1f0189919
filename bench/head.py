"""Fitting the probe's head: our L-BFGS beside `scipy.optimize.minimize(method="L-BFGS-B")` and scikit-learn.

All three minimise the same loss on the same features (EfficientNet-Lite0's of Caltech-101), with the same number of
threads, by turns. Ours and SciPy's stop by the same rule (a step changes the loss by less than 3e-6). scikit-learn's
`LogisticRegression` is asked for the largest tolerance that reaches our loss.

- `one fit`: one strength, from zero, all photos; SciPy's time also to the loss of ours.
- `all fits`: everything that `vertebra train --method probe` fits: the choice of the strength, five folds, all photos.
- `whole call`: that beside the rest of `vertebra train` with features in the cache.

CPU seconds are of this process with all its threads; they hold on a machine that others use, too.
"""

from __future__ import annotations

import functools
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common
import numpy as np
import torch

DATA = _common.ROOT.parent / "shared" / "data" / "caltech101"
MODEL = "efficientnet_lite0"
STRENGTH = 1e-5
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")
SMALL = 24  # photos of each of five classes: the example of docs/train.md
SMALL_CLASSES = ("crab", "crayfish", "lobster", "octopus", "scorpion")


def scipy_solver() -> Any:
    """Our solver's class with SciPy's L-BFGS-B in place of ours."""
    from scipy.optimize import minimize

    from vertebra.train.logistic_regression import HISTORY, MAX_STEPS, MIN_CHANGE, Head, Solver

    class SciPySolver(Solver):
        target = -np.inf  # a loss to stop at

        def fit(self, strength: float, min_change: float = MIN_CHANGE) -> Head:
            shape = self.weight.shape
            decay = self.decay(strength)

            def objective(flat: Any) -> tuple[float, Any]:
                weight = torch.from_numpy(flat.astype(np.float32)).reshape(shape)
                with torch.no_grad():
                    loss, gradient, _ = self.evaluate_at(weight, decay)
                self.last = loss
                return loss, gradient.flatten().numpy().astype(np.float64)

            def enough(flat: Any) -> None:
                if self.last <= self.target:
                    raise StopIteration

            found = minimize(
                objective, self.weight.flatten().numpy().astype(np.float64), jac=True, method="L-BFGS-B",
                callback=enough,
                options={"maxcor": HISTORY, "maxiter": MAX_STEPS, "ftol": min_change, "gtol": 0},
            )  # fmt: skip
            self.weight = torch.from_numpy(found.x.astype(np.float32)).reshape(shape)
            self.steps = found.nit
            return self.head()

    return SciPySolver


def sklearn_fit(features: Any, labels: Any, tol: float) -> Any:
    """`LogisticRegression` of the same loss, on features centred and scaled as ours are."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (STRENGTH * len(labels)), tol=tol, max_iter=1000)
    return model.fit(features, labels)


@functools.cache
def all_photos() -> tuple[Any, list[str]]:
    """Features (N, D) and labels of Caltech-101."""
    from vertebra.card import read_card
    from vertebra.data import open_dataset
    from vertebra.loading import cached_export
    from vertebra.train.dataset_features import compute_features
    from vertebra.train.prepare import run_preprocessing
    from vertebra.train.train_settings import Settings

    dataset = open_dataset(DATA)
    body = cached_export(MODEL, "DEFAULT")
    found = compute_features(dataset, body, run_preprocessing(Settings(data=str(DATA)), read_card(body).preprocessing))
    return found.features, [photo.label for photo in dataset.photos]


def problem(small: bool) -> tuple[Any, Any]:
    """Features (N, D) and numbers of classes (N,)."""
    features, labels = all_photos()
    names = list(SMALL_CLASSES) if small else sorted(set(labels))
    places, counts = [], dict.fromkeys(names, 0)
    for place, label in enumerate(labels):
        if label in counts and (not small or counts[label] < SMALL):
            counts[label] += 1
            places.append(place)
    return features[places], np.array([names.index(labels[place]) for place in places])


def by_turns(candidates: dict[str, Callable[[], Any]], n: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds and CPU seconds of each candidate, and what its last call gave."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "cpu": []} for name in candidates}
    results = {}
    for turn in range(n + 1):
        for name in list(candidates)[:: 1 if turn % 2 else -1]:
            gc.collect()
            start, cpu = time.perf_counter(), time.process_time()
            results[name] = candidates[name]()
            if turn:
                seconds[name]["seconds"].append(time.perf_counter() - start)
                seconds[name]["cpu"].append(time.process_time() - cpu)
    return {
        name: {kind: _common.summary(found, digits=4) for kind, found in each.items()} for name, each in seconds.items()
    }, results


def measure(small: bool, n: int) -> dict[str, Any]:
    from vertebra.train import linear_head
    from vertebra.train.logistic_regression import Solver
    from vertebra.train.temperature import cross_entropy

    other = scipy_solver()
    features, labels = problem(small)
    classes = int(labels.max()) + 1
    centred = features - features.mean(0)
    scaled = centred / np.linalg.norm(centred, axis=1).mean()

    def loss_of(solver: Any, weight: Any) -> float:
        return float(solver.evaluate_at(weight, solver.decay(STRENGTH))[0])

    ours = Solver(features, labels, classes)
    ours.fit(STRENGTH)
    target = loss_of(ours, ours.weight)

    def theirs(**options: Any) -> Any:
        solver = other(features, labels, classes)
        vars(solver).update(options)
        solver.fit(STRENGTH)
        return solver

    def own() -> Any:
        solver = Solver(features, labels, classes)
        solver.fit(STRENGTH)
        return solver

    def sklearn_weight(model: Any) -> Any:
        weight = np.concatenate([model.coef_.T, model.intercept_[None]])
        return torch.from_numpy(weight.astype(np.float32))

    tol = 1e-4
    while classes > 2 and tol > 1e-8:
        if loss_of(ours, sklearn_weight(sklearn_fit(scaled, labels, tol))) <= target + 3e-6:
            break
        tol /= 3
    one, results = by_turns(
        {
            "vertebra": own,
            "scipy, same rule": theirs,
            "scipy, to the same loss": lambda: theirs(target=target),
            "scikit-learn": lambda: sklearn_fit(scaled, labels, tol),
        },
        n,
    )
    for name, found in results.items():
        weight = sklearn_weight(found) if name == "scikit-learn" else found.weight
        one[name]["loss"] = round(loss_of(ours, weight), 7)
    folds = np.arange(len(labels)) % 5  # photos of a class stand side by side

    def all_fits(solver: Any) -> Callable[[], Any]:
        def fit() -> Any:
            kept, linear_head.Solver = linear_head.Solver, solver
            try:
                found = linear_head.cross_validate(features, labels, folds, classes)
                recipe, temperature = found.recipe(np.nonzero(found.measurable)[0])
                recipe.fit(features, labels, classes, found.mean_head)
            finally:
                linear_head.Solver = kept
            logits = recipe.logits(found.softmax_logits, found.discriminant_logits) / temperature
            return {
                "accuracy": round(float((logits.argmax(1) == labels).mean()), 5),
                "cross_entropy": round(cross_entropy(logits, labels), 5),
                "strength": found.strength,
            }

        return fit

    every, results = by_turns({"vertebra": all_fits(Solver), "scipy": all_fits(other)}, max(3, n // 2))
    for name, found in results.items():
        every[name] |= found
    return {
        "photos": len(labels),
        "classes": classes,
        "loss": round(target, 7),
        "tol": tol,
        "one fit": one,
        "all fits": every,
    }


def whole_call(n: int) -> dict[str, Any]:
    """`vertebra.train` with features in the cache, with our solver and with SciPy's."""
    from vertebra.train import linear_head, train

    other = scipy_solver()

    def call(solver: Any) -> Callable[[], Any]:
        def run() -> Any:
            kept, linear_head.Solver = linear_head.Solver, solver
            try:
                with tempfile.TemporaryDirectory() as folder:
                    return train(str(DATA), Path(folder) / "run").metrics["top1"]
            finally:
                linear_head.Solver = kept

        return run

    found, results = by_turns({"vertebra": call(linear_head.Solver), "scipy": call(other)}, n)
    for name, top1 in results.items():
        found[name]["top1"] = top1
    return found


def measure_all(n: int) -> Path:
    result: dict[str, Any] = {}
    for name in ("small", "all"):
        result[name] = measure(name == "small", n)
        print(name, result[name], flush=True)
    for each in result.values():
        fits = each["all fits"]
        each["scipy / vertebra"] = {
            kind: round(fits["scipy"][kind]["median"] / fits["vertebra"][kind]["median"], 2)
            for kind in ("seconds", "cpu")
        }
    return _common.write("head", PACKAGES, result | {"whole call": whole_call(max(2, n // 3))})


def render(document: dict[str, Any]) -> str:
    rows = []
    for size in ("small", "all"):
        each = document[size]
        for what in ("one fit", "all fits"):
            for name, found in each[what].items():
                rows.append(
                    [
                        f"{each['photos']:,} photos, {what}: {name}",
                        f"{found['seconds']['median']:.3f}",
                        f"{found['cpu']['median']:.3f}",
                        found.get("loss", "") or f"{100 * found['accuracy']:.2f} %",
                    ]
                )
    for name, found in document["whole call"].items():
        rows.append(
            [
                f"vertebra train: {name}",
                f"{found['seconds']['median']:.2f}",
                f"{found['cpu']['median']:.2f}",
                f"{100 * found['top1']:.2f} %",
            ]
        )
    headings = ["", "s", "CPU s", "loss or accuracy"]
    return f"{_common.table(headings, rows)}\n\n{_common.footnote(document)}"


if __name__ == "__main__":
    _common.main("head", measure_all, render, 7)
