"""`Classifier`: a finished run, which `vertebra.train` returns."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vertebra.card import Card
from vertebra.errors import UsageError
from vertebra.files import atomic_write, wrap_write_errors
from vertebra.runtime.inputs import ImageInput, ImageInputs
from vertebra.runtime.predictor import Prediction, Predictor
from vertebra.units import counted

from .run_folder import METRICS, MODEL, REPORT, TrainError

if TYPE_CHECKING:
    from .evaluate_model import Evaluation


class PrecisionError(TrainError):
    """A run with `strict` does not reach its target precision; the finished run is kept."""

    def __init__(self, message: str, classifier: Classifier) -> None:
        super().__init__(message)
        self.classifier = classifier


class Classifier:
    """The classifier of a finished run; a UsageError if the folder has none."""

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.run = Path(run)
        if not (self.run / MODEL).is_file():
            raise UsageError(f"{self.run} holds no finished run: there is no {MODEL} in it. See: vertebra train --help")

    def __getstate__(self) -> dict[str, Any]:
        """Pickle with an absolute path."""
        return self.__dict__ | {"run": self.run.absolute()}

    @cached_property
    def predictor(self) -> Predictor:
        """The predictor of the exported file, which does not need torch."""
        return Predictor(self.run / MODEL)

    @property
    def card(self) -> Card:
        """Classes, preprocessing, temperature, threshold and provenance."""
        return self.predictor.card

    @property
    def report(self) -> Path:
        """The path of the HTML report."""
        return self.run / REPORT

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics on held-out photos; a TrainError if the file is missing or damaged."""
        try:
            found: dict[str, Any] = json.loads((self.run / METRICS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is damaged"
            raise TrainError(f"{self.run / METRICS} cannot be read ({reason}). Put it back.") from error
        return found

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the probabilities."""
        return self.predictor.classes

    def predict(
        self, photo: ImageInput, *, top: int = 5, embed: bool = False, preprocessed: bool = False
    ) -> Prediction:
        """Classify one photo: a path, a web address, bytes, an open file, a PIL image, pixels of NumPy or torch.

        `vertebra.runtime.predictor.Predictor.predict` describes inputs, result and errors.
        """
        return self.predictor.predict(photo, top=top, embed=embed, preprocessed=preprocessed)

    __call__ = predict

    def predict_many(
        self, photos: ImageInputs, *, top: int = 5, embed: bool = False, preprocessed: bool = False
    ) -> Iterator[Prediction]:
        """Classify any number of photos, in order; an unreadable one yields its error.

        `vertebra.runtime.predictor.Predictor.predict_many` describes the inputs.
        """
        return self.predictor.predict_many(photos, top=top, embed=embed, preprocessed=preprocessed)

    def evaluate(self, data: str | os.PathLike[str]) -> Evaluation:
        """Measure the classifier on other labelled photos."""
        from .evaluate_model import evaluate

        return evaluate(self.run, data)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Copy the exported file, which is all that prediction needs, to a .onnx file."""
        target = Path(path)
        if target.suffix.lower() != ".onnx":
            raise UsageError(f"the file to write is {str(target)!r}; its name must end in .onnx")
        with wrap_write_errors(target, TrainError), atomic_write(target, durable=True) as temporary:
            shutil.copyfile(self.run / MODEL, temporary)
        return target

    def check(self) -> None:
        """Raise PrecisionError if the threshold does not reach its target precision."""
        target = self.metrics.get("target")
        if target is not None and not target["reached"]:
            raise PrecisionError(
                f"{target['text']}. The run is kept in {self.run}. Add photos, or ask for less with --precision.", self
            )

    def __repr__(self) -> str:
        found = f"<Classifier of {counted(len(self.card.classes or ()), 'class')}, {self.card.architecture}: top-1 "
        if self.metrics["top1"] is None:
            return f"{found}not measured; {self.report}>"
        low, high = self.metrics["top1_interval"]
        return (
            f"{found}{100 * self.metrics['top1']:.1f} % ({100 * low:.1f} – {100 * high:.1f}) on "
            f"{counted(self.metrics['n'], 'held-out photo')}; {self.report}>"
        )
