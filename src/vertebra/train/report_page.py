"""The HTML report of a training run or an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vertebra import report
from vertebra.card import Decoding, Preprocessing
from vertebra.intervals import wilson
from vertebra.report import NOT_MEASURED, Chart, PhotoLinks, Thumbnails, interval, percent, shown

from .evaluation import EvaluatedPredictions
from .metrics import Labels, calibration_curve
from .temperature import softmax
from .thresholds import Rejection

_SUSPICIOUS = 24
_SURE = 0.9  # a label is suspicious above this confidence in another class
_FINDINGS = 300  # thumbnails of audit findings
_NEAR = 250  # thumbnails of photos near the threshold
_NAMED = 20_000  # photos whose file names are on the page
_CONFUSED = 12


@dataclass(frozen=True)
class Report:
    """The contents of a report."""

    title: str
    kind: str
    summary: str  # one sentence
    held: EvaluatedPredictions
    decoding: Decoding  # of the photos' files
    photos: str = "held-out"  # how the page calls the measured photos
    threshold: float | None = None
    temperature: float | None = None  # None: the probabilities are calibrated already
    found: Mapping[str, Any] | None = None  # from `vertebra.data.findings`
    left_out: Sequence[str] = ()  # without an audit: unusable photos, each with the reason
    seconds: Mapping[str, float] = field(default_factory=dict)
    curves: Sequence[Chart] = ()
    trials: Sequence[Any] = ()  # strengths that were tried
    notes: Sequence[str] = ()
    # To reproduce it: (description, command); settings; versions; hashes.
    commands: Sequence[tuple[str, str]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)

    def html(self, folder: Path) -> str:
        """Render the page; its links are relative to `folder`."""
        held, measures = self.held, self.held.metrics
        ranked = _RankedPhotos(held, self.threshold)
        photos = PhotoLinks(folder, [photo.path for photo in held.photos])
        pictures = Thumbnails(self.decoding)
        suspicious = [
            self._suspect(ranked, entry, pictures, photos) for entry in ranked.suspicious[:_SUSPICIOUS].tolist()
        ]
        found = None if self.found is None else report.findings(self.found, pictures, photos, _FINDINGS)
        return report.render(
            "training.html",
            title=self.title,
            kind=self.kind,
            data={"held": ranked.data(pictures, photos) if measures.n else None, "pictures": pictures.data()},
            summary=self.summary,
            photos=self.photos,
            notes=self.notes,
            measured=measures.n > 0,
            tiles=self._tiles(),
            charts={
                "reliability": self._reliability_charts() if measures.n else [],
                "coverage": self._coverage_chart(ranked) if measures.n else None,
                "training": self.curves,
            },
            rejections=[_rejection_row(entry) for entry in held.rejections[:-1]],
            threshold=self.threshold,
            statement=self._statement(),
            confused=self._confused(),
            wrong=len(ranked.wrong),
            suspicious=suspicious,
            other_errors=len(ranked.wrong) > len(suspicious),
            classes=self._classes(),
            found=found,
            left_out=self.left_out,
            trials=[
                {"strength": f"{t.strength:g}", "loss": f"{t.loss:.4f}", "accuracy": t.accuracy} for t in self.trials
            ],
            times=[*self.seconds.items(), ("together", sum(self.seconds.values()))] if self.seconds else [],
            commands=self.commands,
            facts=self.facts,
            versions=self.versions,
            hashes=self.hashes,
        )

    def _tiles(self) -> list[tuple[str, str, str]]:
        m = self.held.metrics
        before = "" if self.temperature is None else f"{percent(self.held.ece_before)} before calibration"
        if m.ece is None:
            before = "too few photos"
        found = [
            ("top-1 accuracy", percent(m.top1), interval(m.top1_interval)),
            ("top-5 accuracy", percent(m.top5), interval(m.top5_interval)),
            ("balanced accuracy", percent(m.balanced_accuracy), interval(m.balanced_accuracy_interval)),
            ("calibration error (ECE)", percent(m.ece), before),
            (f"{self.photos} photos", f"{m.n:,}", self.held.description),
        ]
        if len(m.classes) <= 5:
            del found[1]
        return found

    def _reliability_charts(self) -> list[Chart]:
        held = self.held
        how = (
            "Each dot stands for photos of similar confidence, the larger the more of them; its line is the 95 % "
            "interval of their accuracy. On the dashed diagonal confidence is as high as accuracy; below it the "
            "classifier is overconfident, above it underconfident."
        )
        curve = calibration_curve(held.probabilities, held.labels)
        if self.temperature is None:
            return [report.reliability_chart("Reliability", curve, how)]
        before = calibration_curve(softmax(held.logits), held.labels)
        after = f"Reliability after calibration, temperature {self.temperature:.3f}"
        return [
            report.reliability_chart("Reliability before calibration", before, how),
            report.reliability_chart(after, curve, "The same photos; nearer to the diagonal is better."),
        ]

    def _coverage_chart(self, ranked: _RankedPhotos) -> Chart:
        right = (ranked.predicted == self.held.labels)[np.argsort(-ranked.confidence, kind="stable")]
        shares = np.cumsum(right) / np.arange(1, len(right) + 1)
        steps = np.unique(np.linspace(0, len(right) - 1, 200).astype(int))
        points = [((i + 1) / len(right), float(shares[i])) for i in steps.tolist()]
        return report.coverage_chart(
            "Precision and coverage",
            points,
            "From the left, photos are answered in the order of their confidence, the surest first; the curve "
            "is the share of right answers so far. Its right end, where every photo is answered, is the top-1 "
            "accuracy. The upright line is the threshold below.",
        )

    def _statement(self) -> str:
        wanted = self.held.rejections[-1]
        target = f"{str(wanted)[0].upper()}{str(wanted)[1:]}. " if wanted.target > 0 else ""
        what = (
            "No threshold is set: the exported classifier answers every photo."
            if self.threshold is None
            else "The exported classifier answers “unsure” where its highest probability is below "
            f"{self.threshold:.3f}."
        )
        return f"{target}{what} {self._answered(wanted)}."

    def _answered(self, found: Rejection) -> str:
        if found.coverage is None:
            return NOT_MEASURED.capitalize()
        if found.precision is None or found.precision_interval is None:
            return f"None of the {self.photos} photos is answered"
        low, high = found.precision_interval
        return (
            f"Coverage {percent(found.coverage)}, precision {percent(found.precision)} (95 % interval "
            f"{100 * low:.1f} – {100 * high:.1f}) on the {self.photos} photos"
        )

    def _confused(self) -> list[dict[str, Any]]:
        measures = self.held.metrics
        number = {c.name: index for index, c in enumerate(measures.classes)}
        return [
            {
                "true": number[true],
                "predicted": number[predicted],
                "names": (true, predicted),
                "photos": photos,
                "share": photos / measures.classes[number[true]].photos,
            }
            for true, predicted, photos in measures.most_confused(_CONFUSED)
        ]

    def _suspect(self, ranked: _RankedPhotos, place: int, pictures: Thumbnails, folder: PhotoLinks) -> dict[str, Any]:
        names = [c.name for c in self.held.metrics.classes]
        label, guess = int(self.held.labels[place]), int(ranked.predicted[place])
        photos = [(place, "labelled", label)]
        photos += [(typical, "typical", of) for of in (label, guess) if (typical := ranked.typical[of]) is not None]
        shots = []
        for index, what, of in photos:
            path = self.held.photos[index].path
            text = shown(f"{what} {names[of]}")
            shots.append({"key": pictures.add(path), "link": folder.link(path), "name": shown(path.name), "text": text})
        return {
            "label": names[label],
            "predicted": names[guess],
            "confidence": float(ranked.confidence[place]),
            "photos": shots,
        }

    def _classes(self) -> list[dict[str, Any]]:
        held = self.held
        found = []
        for index, c in enumerate(held.metrics.classes):
            pictures = float(held.weights[held.labels == index].sum())
            low, high = (None, None) if c.recall is None else wilson(c.recall * pictures, pictures)
            found.append(
                {"name": c.name, "recall": c.recall, "low": low, "high": high}
                | {"precision": c.precision, "f1": c.f1, "photos": c.photos}
            )
        return sorted(found, key=lambda c: (c["f1"] is None, c["f1"], c["name"]))


class _RankedPhotos:
    """The held-out photos, ranked for the page's script."""

    def __init__(self, held: EvaluatedPredictions, threshold: float | None) -> None:
        self._held, self._threshold = held, threshold
        count = len(held.labels)
        probabilities = held.probabilities
        self.predicted: Labels = probabilities.argmax(axis=1) if count else np.zeros(0, np.int64)
        self.confidence = probabilities.max(axis=1) if count else np.zeros(0)
        self.own = probabilities[np.arange(count), held.labels] if count else np.zeros(0)
        self.wrong = np.nonzero(self.predicted != held.labels)[0]
        # A label is suspicious where the classifier is sure of another class and gives the labelled one no chance.
        sure = self.wrong[self.confidence[self.wrong] > _SURE]
        self.suspicious = sure[np.argsort(self.own[sure], kind="stable")]
        self.typical: list[int | None] = [self._most_confident(index) for index in range(len(held.metrics.classes))]

    def _most_confident(self, index: int) -> int | None:
        right = np.nonzero((self._held.labels == index) & (self.predicted == index))[0]
        return int(right[self.confidence[right].argmax()]) if len(right) else None

    def data(self, pictures: Thumbnails, folder: PhotoLinks) -> dict[str, Any]:
        """Return the page's data: classes and probabilities of each photo, names and thumbnails of the first ones.

        Errors come first, the most confident at the top, then photos near the threshold.
        """
        held, names = self._held, [c.name for c in self._held.metrics.classes]
        wrong = self.wrong[np.argsort(-self.confidence[self.wrong], kind="stable")]
        middle = self.confidence.min() if self._threshold is None else self._threshold
        near = np.argsort(np.abs(self.confidence - middle), kind="stable")
        order = np.array(list(dict.fromkeys([*wrong.tolist(), *near.tolist()])), np.int64)
        keys: dict[int, int] = {}
        links: dict[int, str] = {}
        shown_names = []
        # Errors get all thumbnails but the `_NEAR` ones of photos near the threshold.
        first = [*wrong[: max(0, pictures.num_free - _NEAR)].tolist(), *near[:_NEAR].tolist(), *wrong.tolist()]
        without = [place for place in dict.fromkeys(first) if pictures.key(held.photos[place].path) is None]
        rooms = set(without[: pictures.num_free])
        for number, place in enumerate(order[:_NAMED].tolist()):
            path = held.photos[place].path
            name, link = folder.entry(path)
            shown_names.append(name)
            if link is not None:
                links[number] = link
            key = pictures.add(path) if place in rooms else pictures.key(path)
            if key is not None:
                keys[number] = key
        suspects = set(self.suspicious[:_SUSPICIOUS].tolist())
        confusion = held.metrics.confusion
        cells = [(a, b, photos) for a, row in enumerate(confusion) for b, photos in enumerate(row) if photos]
        return {
            "names": [shown(name) for name in names],
            "root": folder.address,
            "shown": shown_names,
            "links": links,
            "truth": held.labels[order].tolist(),
            "predicted": self.predicted[order].tolist(),
            "confidence": [round(value, 6) for value in self.confidence[order].tolist()],
            "own": {number: round(float(self.own[place]), 6) for number, place in enumerate(wrong.tolist())},
            "keys": keys,
            "others": [number for number, place in enumerate(wrong.tolist()) if place not in suspects],
            "matrix": cells,
            "clustered": report.cluster_classes(len(names), cells),
            "threshold": self._threshold,
            "wrong": len(wrong),
        }


def _rejection_row(entry: Rejection) -> dict[str, Any]:
    return {
        "target": entry.target,
        "threshold": "none" if entry.threshold is None else f"{entry.threshold:.3f}",
        "coverage": entry.coverage,
        "precision": entry.precision,
        "interval": entry.precision_interval,
        "reached": "yes" if entry.reached else f"no, {str(entry).rpartition(': ')[2]}",
    }


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """Describe a preprocessing in one line."""
    p = preprocessing
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (p.mean, p.std))
    bits = "" if p.decoding.bits is None else f"; 16-bit files: {p.decoding.bits} bits used"
    return f"{p.describe()}; mean {mean}; standard deviation {std}{bits}"
