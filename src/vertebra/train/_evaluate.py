"""How good an exported classifier is on labelled photos."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vertebra.data import Dataset, audit, open_dataset
from vertebra.errors import UsageError
from vertebra.runtime.engines import PROBABILITIES
from vertebra.runtime.predictor import Predictor

from ._measure import Floats, Labels
from ._pass import look_and_run
from ._report import Report, percent
from ._run import MODEL, Held, judge, trained_hashes, write_text


@dataclass(frozen=True)
class Evaluation:
    """What was measured. The file's probabilities are calibrated already, so there is one calibration error."""

    model: Path
    data: str
    held: Held
    broken: tuple[str, ...]  # photos that could not be used, and why
    trained_on: int  # photos that the classifier was trained on
    threshold: float | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; shares are fractions from 0 to 1."""
        found = self.held.measures.to_dict()
        confusion = found.pop("confusion")
        answered, right = self.answered
        return {
            "model": str(self.model),
            "data": self.data,
            **found,
            "answered": answered,
            "answered_right": right,
            "threshold": self.threshold,
            "most_confused": [list(entry) for entry in self.held.measures.most_confused()],
            "trained_on": self.trained_on,
            "broken": list(self.broken),
            "confusion": confusion,
        }

    @property
    def answered(self) -> tuple[float, float]:
        """The share of photos that are answered rather than "unsure", and the share of right ones among them."""
        probabilities = self.held.probabilities
        kept = probabilities.max(axis=1) >= (self.threshold or 0.0)
        right = probabilities.argmax(axis=1) == self.held.labels
        return float(kept.mean()), float(right[kept].mean()) if kept.any() else 0.0

    @property
    def notes(self) -> list[str]:
        """What makes the numbers less than they seem."""
        notes = []
        if self.trained_on:
            notes.append(
                f"{self.trained_on:,} of these {self.held.measures.n:,} photos trained this classifier, so it looks "
                "better than it is; its own report has what it does on photos that it had not seen."
            )
        if self.broken:
            notes.append(f"{len(self.broken):,} photos could not be used and are left out, such as {self.broken[0]}.")
        return notes

    def write(self, path: Path) -> None:
        """Write the report as a page.

        Raises:
            TrainError: it cannot be written.
        """
        m = self.held.measures
        summary = f"{self.model} on {m.n:,} photos of {self.data}: top-1 {percent(m.top1)}."
        facts = {"model": str(self.model), "data": self.data}
        page = Report(
            f"Evaluation: {self.model.name}", summary, self.held, self.threshold, facts=facts, notes=self.notes
        )
        write_text(path, page.html())


def evaluate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    engine: str = "auto",
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Evaluation:
    """Measure an exported classifier.

    Args:
        model: the folder of a run, or an exported file.
        data: labelled photos, as `open_dataset` takes them; where they have a split, those of `test` count (or of
            `val`, where there is no `test`).
        engine: as `vertebra.load` takes it.
        tell: called with what is being done, the photos done and the photos in all.

    Raises:
        UsageError: the model has no class names, or the data has classes that it does not know.
        DataError: the data cannot be used.
    """
    path = Path(model) / MODEL if Path(model).is_dir() else Path(model)
    if not path.is_file():
        what = f"{model} is no run: it has no {MODEL}" if Path(model).is_dir() else f"{path}: no such file"
        raise UsageError(f"{what}. Give the folder of a run, or a file that `vertebra export` wrote.")
    predictor = Predictor(path, engine=engine)
    names = predictor.card.classes
    if names is None:
        raise UsageError(f"{path} has no class names in its card, so labels cannot be matched. Export with --classes.")
    dataset = _test_part(open_dataset(data, classes=1))
    _check_classes(dataset, names, path)
    facts, probabilities = look_and_run(
        dataset,
        predictor.card.preprocessing,
        predictor.runner(predictor.batch),
        PROBABILITIES,
        tell=lambda done, total: tell("predicting", done, total),
    )
    audit(dataset, facts)  # raises where nothing can be used
    kept = [i for i, fact in enumerate(facts) if fact.broken is None]
    photos = [dataset.photos[i] for i in kept]
    number = {name: index for index, name in enumerate(names)}
    labels: Labels = np.array([number[photo.label] for photo in photos], np.int64)
    logits: Floats = np.log(np.maximum(probabilities[kept], 1e-30))
    known = trained_hashes(path.parent)
    return Evaluation(
        model=path,
        data=dataset.name,
        held=judge(f"all photos of {dataset.name}", photos, labels, logits, 1.0, names),
        broken=tuple(f"{dataset.shown(dataset.photos[i].path)}: {f.reason}" for i, f in enumerate(facts) if f.broken),
        trained_on=sum(facts[i].sha256 in known for i in kept),
        threshold=predictor.card.threshold,
    )


def _test_part(dataset: Dataset) -> Dataset:
    for split in ("test", "val"):
        if any(photo.split == split for photo in dataset.photos):
            part = dataset.only(lambda photo, wanted=split: photo.split == wanted)  # type: ignore[misc]
            return replace(part, name=f"{dataset.name} ({split})")
    return dataset


def _check_classes(dataset: Dataset, names: Sequence[str], path: Path) -> None:
    there = {photo.label for photo in dataset.photos}
    unknown = sorted(there - set(names))
    if unknown:
        raise UsageError(
            f"{dataset.name} has {len(unknown)} classes that {path} does not know, such as {unknown[0]!r}; it knows "
            f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}. Rename the folders, or leave these out."
        )
