"""The probe's head fitted to features that stay on disk, beside features in memory and beside other ways to fit it.

- `caltech`: EfficientNet-Lite0's features of Caltech-101 in float32, rounded to float16, and streamed from the store:
  loss and steps of a fit at one strength, out-of-fold accuracy of everything that `vertebra train` fits.
- `peers`: 100,000 made-up features of 1,280 dimensions and 100 classes that overlap, with correlated dimensions of
  scales from 0.01 to 100, standardised; scikit-learn's `SGDClassifier` and a loop in torch (Adam, minibatches), as one
  writes them today on features in memory; each with the best of two or three settings; loss, and accuracy of 20,000
  others.
- `large`: 1,000,000 of these features. Memory is sampled every 20 ms; pages of mapped files are apart, as they can be
  dropped whenever memory is short. The floor is the time of the fit's matrix products at the speed of a large one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import _common
import head
import numpy as np
import torch

PACKAGES = ("torch", "numpy", "scikit-learn")
WIDTH, CLASSES, RANK = 1280, 100, 320
STRENGTH = 1e-6
BLOCK = 20_000
HELD = 20_000


# --- made-up features ---------------------------------------------------------------------------------------------


def made_up(count: int, first: int = 0) -> Iterator[tuple[Any, Any]]:
    """Blocks of features (B, D) and labels (B,); `first` is the number of the first block, which is its seed."""
    fixed = torch.Generator().manual_seed(1)
    mixing = torch.randn(RANK, WIDTH, generator=fixed) / RANK**0.5
    scales = torch.exp(1.5 * torch.randn(WIDTH, generator=fixed))
    centres = 0.22 * torch.randn(CLASSES, RANK, generator=fixed)
    for number in range(-(-count // BLOCK)):
        own = torch.Generator().manual_seed(1000 + first + number)
        size = min(BLOCK, count - number * BLOCK)
        labels = torch.randint(0, CLASSES, (size,), generator=own)
        hidden = centres[labels] + torch.randn(size, RANK, generator=own)
        values = (hidden @ mixing).add_(torch.randn(size, WIDTH, generator=own), alpha=0.3)
        yield values.add_(0.5).relu_().mul_(scales).numpy(), labels.numpy()


def held_out() -> tuple[Any, Any]:
    """Features and labels that no fit has."""
    blocks = list(made_up(HELD, first=100_000))
    return np.concatenate([block for block, _ in blocks]), np.concatenate([labels for _, labels in blocks])


def filled_store(folder: Path, blocks: Iterable[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Stored features and labels, as `vertebra train` stores those of photos."""
    from vertebra.train.feature_store import FeatureStore

    store, labels, digests = FeatureStore(folder, "made up"), [], []
    for block, own in blocks:
        for row in block:
            digests.append(hashlib.sha256(str(len(digests)).encode()).hexdigest())
            store.put(digests[-1], row)
        labels.append(own)
    store.close()
    return store.rows(digests), np.concatenate(labels)


# --- measuring ----------------------------------------------------------------------------------------------------


class Memory:
    """Samples this process's memory: anonymous (VmRSS without RssFile and RssShmem) and of mapped files, in MB."""

    def __init__(self) -> None:
        self.anonymous = self.mapped = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Memory:
        self._sample()
        self.before = self.anonymous
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.02):
            self._sample()

    def _sample(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        found = {
            name: int(rest.split()[0]) / 1000
            for name, _, rest in (line.partition(":") for line in lines)
            if "kB" in rest
        }
        self.anonymous = max(self.anonymous, found["VmRSS"] - found["RssFile"] - found["RssShmem"])
        self.mapped = max(self.mapped, found["RssFile"])

    def to_dict(self) -> dict[str, float]:
        return {
            "anonymous_mb_before": round(self.before),
            "anonymous_mb": round(self.anonymous),
            "mapped_mb": round(self.mapped),
        }


def gflops() -> float:
    """GFLOP/s of a product of (8192, D) and (D, K), in the median of 15."""
    one, other = torch.randn(8192, WIDTH), torch.randn(WIDTH, CLASSES)
    seconds = _common.alternate({"product": lambda: one @ other}, 15, warm=3)["product"]
    return 2 * 8192 * WIDTH * CLASSES / float(np.median(seconds)) / 1e9


def cross_entropy(logits: Any, labels: Any) -> float:
    return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))


def measured(logits: Any, labels: Any) -> dict[str, float]:
    return {
        "loss": round(cross_entropy(logits.astype(np.float32), labels), 5),
        "accuracy": round(float((logits.argmax(1) == labels).mean()), 5),
    }


def fitted(
    features: Any, labels: Any, classes: int = CLASSES, strength: float = STRENGTH, *, is_preconditioned: bool = True
) -> tuple[dict[str, Any], Any]:
    """One fit: seconds, steps, loss with its penalty; and the head."""
    from vertebra.train import logistic_regression
    from vertebra.train.logistic_regression import Solver

    if not is_preconditioned:
        logistic_regression._MIN_PHOTOS_PER_FEATURE = 10**9
    start, cpu = time.perf_counter(), time.process_time()
    solver = Solver(features, labels, classes)
    prepared = time.perf_counter() - start
    result = solver.fit(strength)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    objective = solver.evaluate_at(solver.weight, solver.decay(strength))[0]
    return {
        "seconds": round(seconds, 2),
        "seconds_before_the_first_step": round(prepared, 2),
        "cpu": round(cpu, 2),
        "steps": solver.steps,
        "objective": round(objective, 6),
    }, result


# --- Caltech-101 --------------------------------------------------------------------------------------------------


def caltech(folder: Path) -> dict[str, Any]:
    from vertebra.card import read_card
    from vertebra.data import open_dataset
    from vertebra.loading import cached_export
    from vertebra.runtime.engine import EMBEDDING
    from vertebra.runtime.predictor import Predictor
    from vertebra.train.dataset_features import infer_dataset
    from vertebra.train.feature_store import FeatureStore
    from vertebra.train.linear_head import cross_validate
    from vertebra.train.prepare import run_preprocessing
    from vertebra.train.train_settings import Settings

    dataset = open_dataset(head.DATA)
    body = cached_export(head.MODEL, "DEFAULT")
    preprocessing = run_preprocessing(Settings(data=str(head.DATA)), read_card(body).preprocessing)
    predictor = Predictor(body)
    runner = predictor.runner(predictor.batch)
    infos, float32 = infer_dataset(dataset, preprocessing, runner, EMBEDDING, task="computing features")
    runner.close()
    names = sorted({photo.label for photo in dataset.photos})
    labels = np.array([names.index(photo.label) for photo in dataset.photos])
    store = FeatureStore(folder, "caltech")
    for info, row in zip(infos, float32, strict=True):
        store.put(info.sha256, row)
    store.close()
    stored = store.rows([info.sha256 for info in infos])
    float16 = stored.to_memory()
    folds = np.random.default_rng(0).permutation(len(labels)) % 5
    found: dict[str, Any] = {
        "photos": len(labels),
        "classes": len(names),
        "rounding": round(float(np.abs(float16 - float32).max() / np.abs(float32).max()), 7),
    }
    for name, features in {"float32": float32, "float16": float16, "streamed": stored}.items():
        found[name], one = fitted(features, labels, len(names), head.STRENGTH)
        start = time.perf_counter()
        out_of_fold = cross_validate(features, labels, folds, len(names))
        recipe, temperature = out_of_fold.recipe(np.nonzero(out_of_fold.measurable)[0])
        logits = recipe.logits(out_of_fold.softmax_logits, out_of_fold.discriminant_logits) / temperature
        found[name] |= {
            "out_of_fold": measured(logits, labels),
            "strength": out_of_fold.strength,
            "seconds_of_all_fits": round(time.perf_counter() - start, 2),
            "loss": measured(one.logits(features), labels)["loss"],
        }
    return found


# --- peers --------------------------------------------------------------------------------------------------------


def sgd_classifier(features: Any, labels: Any, alpha: float) -> Callable[[Any], Any]:
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(loss="log_loss", alpha=alpha, max_iter=20, tol=1e-3, random_state=0, n_jobs=-1)
    model.fit(features, labels)
    return lambda others: np.log(np.maximum(model.predict_proba(others), 1e-12)).astype(np.float32)


def adam(features: Any, labels: Any, lr: float, epochs: int = 20, batch: int = 1024) -> Callable[[Any], Any]:
    torch.manual_seed(0)
    values, truth = torch.from_numpy(features), torch.from_numpy(labels)
    model = torch.nn.Linear(values.shape[1], CLASSES)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(values) // batch))
    for _ in range(epochs):
        for rows in torch.randperm(len(values)).split(batch):
            loss = torch.nn.functional.cross_entropy(model(values[rows]), truth[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        weight, bias = model.weight.numpy().T.copy(), model.bias.numpy().copy()
    return lambda others: others @ weight + bias


def peers(folder: Path, count: int) -> dict[str, Any]:
    memory = np.concatenate([block for block, _ in made_up(count)])
    others, truth = held_out()
    mean, deviation = memory.mean(0), memory.std(0) + 1e-12
    memory = (memory - mean) / deviation
    others = (others - mean) / deviation
    parts = (memory[first : first + BLOCK] for first in range(0, count, BLOCK))
    stored, labels = filled_store(folder, zip(parts, (own for _, own in made_up(count)), strict=True))
    found: dict[str, Any] = {"rows": count, "held_out": len(truth)}
    candidates = {"vertebra, streamed": stored, "vertebra, in memory": memory, "vertebra, not preconditioned": memory}
    strengths: tuple[float, ...] = (1e-4, 1e-5, 1e-6)
    for name, features in candidates.items():
        rows = []
        for strength in strengths:
            row, one = fitted(features, labels, strength=strength, is_preconditioned="not" not in name)
            row |= {"train": measured(one.logits(memory), labels), "held": measured(one.logits(others), truth)}
            rows.append({"strength": strength, **row})
            print(name, rows[-1], flush=True)
        found[name] = best(rows)
        strengths = (found[name]["strength"],)  # the others are the same fit
    del stored
    others_of_today = {
        "SGDClassifier": [(sgd_classifier, {"alpha": alpha}) for alpha in (1e-5, 1e-6)],  # stronger ones do worse
        "torch, Adam": [(adam, {"lr": lr}) for lr in (1e-3, 3e-4, 3e-3)],
    }
    for name, tried in others_of_today.items():
        rows = []
        for function, options in tried:
            start, cpu = time.perf_counter(), time.process_time()
            logits = function(memory, labels, **options)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            train, held = measured(logits(memory), labels), measured(logits(others), truth)
            rows.append({**options, "seconds": round(seconds, 2), "cpu": round(cpu, 2), "train": train, "held": held})
            print(name, rows[-1], flush=True)
        found[name] = best(rows)
    return found


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the row with the highest accuracy, with all rows in it."""
    return max(rows, key=lambda row: row["held"]["accuracy"]) | {"tried": rows}


# --- large --------------------------------------------------------------------------------------------------------


def large(folder: Path, count: int) -> dict[str, Any]:
    with Memory() as filling:
        start = time.perf_counter()
        stored, labels = filled_store(folder, made_up(count))
        seconds = time.perf_counter() - start
    speed = gflops()
    with Memory() as memory:
        found, one = fitted(stored, labels)
    others, truth = held_out()
    step = 4 * count * WIDTH * CLASSES / speed / 1e9
    steps = found["seconds"] - found["seconds_before_the_first_step"]
    return {
        "rows": count,
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "seconds_to_fill_the_store": round(seconds, 1),
        "filling": filling.to_dict(),
        **found,
        **memory.to_dict(),
        "held": measured(one.logits(others), truth),
        "gflops": round(speed, 1),
        "seconds_of_a_step": round(steps / (found["steps"] + 1), 2),
        "floor_of_a_step": round(step, 2),
    }


PARTS = {"caltech": caltech, "peers": peers, "large": large}


def measure(options: argparse.Namespace) -> Path:
    """Each part in a process of its own, whose memory is its own."""
    path = _common.RESULTS / "head_stream.json"
    found = (
        {name: each for name, each in json.loads(path.read_text()).items() if name in PARTS} if path.exists() else {}
    )
    for name in options.only:
        command = [sys.executable, __file__, "--part", name, "--rows", str(options.rows[name])]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, json.dumps(found[name], indent=1), flush=True)
        _common.write("head_stream", PACKAGES, found)
    return path


def render(document: dict[str, Any]) -> str:
    rows = []
    if own := document.get("caltech"):
        for name, label in {
            "float32": "float32 in memory",
            "float16": "float16 in memory",
            "streamed": "float16 streamed",
        }.items():
            each = own[name]
            rows.append(
                [
                    f"Caltech-101, {own['photos']:,} photos: {label}",
                    f"{each['seconds']:.1f}",
                    each["steps"],
                    f"{each['objective']:.5f}",
                    f"{100 * each['out_of_fold']['accuracy']:.2f} %",
                    "",
                ]
            )
    for name, each in document.get("peers", {}).items():
        if isinstance(each, dict):
            rows.append(
                [
                    f"{document['peers']['rows']:,} rows: {name}",
                    f"{each['seconds']:.1f}",
                    each.get("steps", ""),
                    f"{each['train']['loss']:.4f}",
                    f"{100 * each['held']['accuracy']:.2f} %",
                    "",
                ]
            )
    if each := document.get("large"):
        rows.append(
            [
                f"{each['rows']:,} rows: streamed",
                f"{each['seconds']:,.0f}",
                each["steps"],
                f"{each['objective']:.4f}",
                f"{100 * each['held']['accuracy']:.2f} %",
                f"{each['anonymous_mb']:,} MB",
            ]
        )
    headings = ["1,280 features", "s", "steps", "loss", "accuracy", "anonymous memory"]
    note = "Loss of what a head was fitted to, with its penalty for Caltech-101 and a million rows; accuracy of others."
    return f"{_common.table(headings, rows)}\n\n{note} {_common.footnote(document)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these again")
    parser.add_argument("--peer-rows", type=int, default=100_000)
    parser.add_argument("--large-rows", type=int, default=1_000_000)
    parser.add_argument("--table", action="store_true", help="only make the table in the docs again from the JSON")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options_rows = {"caltech": 0, "peers": options.peer_rows, "large": options.large_rows}
    if options.part:
        with tempfile.TemporaryDirectory(prefix="vertebra-head-") as name:
            arguments = () if options.part == "caltech" else (options.rows,)
            print(json.dumps(PARTS[options.part](Path(name) / "store", *arguments)))
        return
    options.rows = options_rows
    if not options.table:
        print(f"written: {measure(options).relative_to(_common.ROOT)}")
    text = render(_common.read("head_stream"))
    _common.publish("head_stream", text)
    print(text)


if __name__ == "__main__":
    main()
