"""The result of one photo, and how it is built from probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vertebra.card import Card
from vertebra.errors import printable

from .engine import EngineError, FloatArray

_SHOWN = 3  # classes in a repr, which is one line
_BAR = 12  # width in em, of a probability of 1


@dataclass
class Prediction:
    """The result of one photo: classes, best first, or an error."""

    path: str  # or "image" ("image 3" of many) if it has no path
    predictions: list[dict[str, Any]] = field(default_factory=list)  # class, index, probability
    error: str | None = None
    unsure: bool | None = None  # the best probability is below the card's threshold; None: the card has none
    embedding: FloatArray | None = None

    @property
    def label(self) -> str | None:
        """The name of the most likely class, even if `unsure`; None for an error."""
        return str(self.predictions[0]["class"]) if self.predictions else None

    @property
    def probability(self) -> float | None:
        """The probability of `label`, from 0 to 1; None for an error."""
        return float(self.predictions[0]["probability"]) if self.predictions else None

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON: path, predictions and error; unsure and embedding if they are set."""
        found: dict[str, Any] = {"path": self.path, "predictions": self.predictions, "error": self.error}
        if self.unsure is not None:
            found["unsure"] = self.unsure
        if self.embedding is not None:
            found["embedding"] = self.embedding.tolist()
        return found

    def __repr__(self) -> str:
        """One line: `<Prediction cat.jpg: tabby 61.2%, tiger cat 20.1%, lynx 9.0%>`."""
        shown = [f"{entry['class']} {_format_percent(entry['probability'])}" for entry in self.predictions[:_SHOWN]]
        more = ["…"] if len(self.predictions) > _SHOWN else []
        found = f"error: {self.error}" if self.error is not None else ", ".join(shown + more)
        return printable(f"<Prediction {self.path}: {'unsure: ' if self.unsure else ''}{found}>")

    def _repr_html_(self) -> str:
        """A table with a bar for each class, for notebooks."""
        # Built of elements, which escape names of classes and files.
        from xml.etree.ElementTree import Element, SubElement, tostring

        def cell(row: Element, text: str, style: str = "text-align: left") -> Element:
            found = SubElement(row, "td", {"style": style})
            found.text = printable(text)
            return found

        table = Element("table", {"style": "color: inherit"})
        unsure = " (unsure: none of these is likely enough)" if self.unsure else ""
        caption = SubElement(table, "caption", {"style": "text-align: left; white-space: nowrap"})
        caption.text = printable(f"{self.path}{unsure}")
        if self.error is not None:
            cell(SubElement(table, "tr"), self.error)
        for entry in self.predictions:
            row = SubElement(table, "tr")
            cell(row, str(entry["class"]))
            cell(row, _format_percent(entry["probability"]), "text-align: right")
            width = _BAR * entry["probability"]
            bar = f"width: {width:.2f}em; height: 0.8em; background: currentColor; opacity: 0.6"
            SubElement(cell(row, "", f"min-width: {_BAR}em"), "div", {"style": bar})
        return tostring(table, encoding="unicode", method="html")


def top_classes(card: Card, probabilities: FloatArray, top: int) -> tuple[list[dict[str, Any]], bool | None]:
    """(K,), finite → the `top` best classes, best first, and whether the best is below the card's threshold."""
    best = _best(probabilities, top)
    found = [
        {"class": card.class_name(index), "index": index, "probability": value}
        for index, value in zip(best.tolist(), probabilities[best].tolist(), strict=True)
    ]
    return found, None if card.threshold is None else bool(probabilities[best[0]] < card.threshold)


def _best(probabilities: FloatArray, top: int) -> NDArray[np.intp]:
    """The indices of the `top` greatest values, greatest first, equal ones in their order.

    Sorting 1,000 classes takes as long as resizing a photo; of the few that can be among the best it takes a tenth.
    """
    if top == 1:
        return np.array([probabilities.argmax()])
    if top >= len(probabilities):
        return np.argsort(-probabilities, kind="stable")
    least = np.partition(probabilities, -top)[-top]
    candidates = np.flatnonzero(probabilities >= least)
    return candidates[np.argsort(-probabilities[candidates], kind="stable")[:top]]


def build_predictions(
    model: Path, card: Card, paths: Sequence[str], outputs: Sequence[FloatArray], top: int
) -> list[Prediction]:
    """Build predictions as `Predictor.postprocess` does; `model` is named in errors."""
    probabilities, *embeddings = outputs
    if not np.isfinite(probabilities).all():
        raise EngineError(f"{model} gives probabilities that are NaN or infinite: its weights are damaged.")
    results = []
    for row, path in enumerate(paths):
        predictions, unsure = top_classes(card, probabilities[row], top)
        embedding = embeddings[0][row].copy() if embeddings else None
        results.append(Prediction(path, predictions, unsure=unsure, embedding=embedding))
    return results


def _format_percent(probability: float) -> str:
    return f"{probability:.1%}"
