"""`vertebra.evaluate`: the accuracy, calibration and confusions of a classifier on labelled photos."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vertebra.card import Decoding, read_card
from vertebra.data import (
    INDEX,
    Dataset,
    ImageInfoCache,
    audit,
    class_index_notes,
    find_duplicates,
    is_table,
    match_imagenet,
    match_names,
    open_dataset,
)
from vertebra.errors import UsageError, suggest
from vertebra.files import atomic_write, wrap_write_errors
from vertebra.imagenet import is_imagenet, wnids
from vertebra.loading import exported_file
from vertebra.model_argument import ModelKind, resolve_model
from vertebra.progress import Progress, silent
from vertebra.report import interval, package_versions, percent
from vertebra.runtime.engine import PROBABILITIES
from vertebra.runtime.predictor import Predictor
from vertebra.sources.photo_place import PhotoPlace
from vertebra.units import counted

from .data_notes import absent_class_notes, sample_size_notes, unusable_note
from .dataset_features import infer_dataset
from .evaluation import Calibration, EvaluatedPredictions, evaluate_predictions
from .leakage import TrainedPhotos, find_trained_photos, trained_notes
from .metrics import Floats, Labels
from .prepare import picture_ids
from .report_page import Report, describe_preprocessing
from .run_folder import SETTINGS, TrainError
from .temperature import softmax
from .thresholds import Rejection, Threshold, measure_rejection
from .train_settings import Settings


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`. The probabilities are calibrated already, so there is one calibration error."""

    model: Path  # the exported file, which may be in the cache, or temporary
    given: str  # the model as shown to people and in commands
    data: str
    held: EvaluatedPredictions
    broken: tuple[str, ...]  # unusable photos, each with the reason
    trained: TrainedPhotos  # measured photos that the classifier was trained on, by index
    shown: Callable[[PhotoPlace], str]  # formats the path of a photo for people
    threshold: float | None
    decoding: Decoding  # of the photos' files
    source: str  # DATA as it was given
    labelled_by: str = "class name"  # or "wnid", "wnid and name", "class index"
    reading: tuple[str, ...] = ()  # notes of reading the data: what was joined, left out or ignored
    arguments: tuple[str, ...] = ()  # options of the command that repeats the evaluation

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; shares are fractions from 0 to 1."""
        found = self.held.metrics.to_dict()
        confusion = found.pop("confusion")
        answered = self.answered
        return {
            "model": self.given,
            "data": self.data,
            **found,
            "answered": answered.coverage,
            "answered_right": answered.precision,
            "answered_right_interval": answered.precision_interval,
            "threshold": self.threshold,
            "labelled_by": self.labelled_by,
            "most_confused": [list(entry) for entry in self.held.metrics.most_confused()],
            "trained_on": self.trained_on,
            "copies_of_trained": len(self.trained.copies),
            "broken": list(self.broken),
            "notes": self.notes,
            "confusion": confusion,
        }

    @property
    def trained_on(self) -> int:
        """Photos that the classifier was trained on, as the same files."""
        return len(self.trained.files)

    @property
    def answered(self) -> Rejection:
        """Coverage and precision of the classifier's own threshold."""
        return self.held.rejections[-1]

    @property
    def notes(self) -> list[str]:
        """Notes on what limits the metrics."""
        notes = [*self.reading, *sample_size_notes(self.held.metrics.n, self.held.metrics.pictures, "measured")]
        classes = self.held.metrics.classes
        notes += absent_class_notes({c.name for c in classes if not c.photos}, len(classes), "these")
        notes += trained_notes(self.trained, self.held, self.shown)
        if self.broken:
            notes.append(unusable_note(len(self.broken), self.broken[0]))
        return notes

    def write(self, path: Path) -> None:
        """Write the HTML report; raise TrainError if that fails."""
        m = self.held.metrics
        command = shlex.join(["vertebra", "evaluate", self.given, self.source, *self.arguments])
        card = read_card(self.model)
        preprocessing = describe_preprocessing(card.preprocessing)
        name = self.model.name if self.given == str(self.model) else self.given
        page = Report(
            title=f"{name} on {self.data}",
            kind="Evaluation",
            summary=f"{self.given} on {counted(m.n, 'photo')}: top-1 accuracy {percent(m.top1)} (95 % interval "
            f"{interval(m.top1_interval)}).",
            held=self.held,
            decoding=self.decoding,
            photos="measured",
            threshold=self.threshold,
            left_out=self.broken,
            notes=self.notes,
            commands=[("This command measures the same again:", f"{command} --html {shlex.quote(str(path))}")],
            facts={"model": self.given, "data": self.source, "preprocessing": preprocessing},
            versions=package_versions("numpy", "pillow", "onnxruntime"),
            hashes={} if card.content_sha256 is None else {f"{name}, SHA-256": card.content_sha256},
        )
        html = page.html(path.parent).encode("utf-8")
        with wrap_write_errors(path, TrainError), atomic_write(path, durable=True) as temporary:
            temporary.write_bytes(html)


def evaluate(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    engine: str = "auto",
    ignore: Sequence[str] = (),
    allow_unseen: bool = False,
    bits: int | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    image_root: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """All metrics of an exported classifier on labelled photos.

    `model`, `engine` and `bits` are as `vertebra.load` takes them; `data`, `ignore` and what is said of a table as
    `open_dataset` does. Where the photos have a split, those of `test` count (or of `val`, where there is no `test`).
    `allow_unseen` leaves out the photos of classes that the model does not know, instead of refusing them. Where
    nothing is said of a table that has the columns that a run was trained with, it is read by these.
    `progress` is called with what is being done, the photos done and the photos in all.

    Raises:
        UsageError: the model has no class names, or the data has classes that it does not know.
        DataError: the data cannot be used, or a class may be one of the model's or not.
    """
    argument = resolve_model(model, "evaluate")
    path = exported_file(argument)
    # As it was given where its file lies in the cache or is made for this run alone.
    shown = argument.given if argument.kind in (ModelKind.NETWORK, ModelKind.FUNCTION) else str(path)
    predictor = Predictor(path, engine=engine, bits=bits)
    names = predictor.card.classes
    if names is None:
        raise UsageError(f"{shown} has no class names in its card, so labels cannot be matched. Export with --classes.")
    columns = {"path_column": path_column, "label_column": label_column, "split_column": split_column}
    columns["image_root"] = None if image_root is None else os.fspath(image_root)
    given = {name: value for name, value in columns.items() if value is not None}
    opened, read_by = _open_labelled(data, ignore, given, Path(model))
    dataset, names, labelled_by = _select_known_classes(_select_test_photos(opened), names, shown, allow_unseen)
    runner, decoding = predictor.runner(predictor.batch), predictor.preprocessing.decoding
    infos, probabilities = infer_dataset(
        dataset, predictor.preprocessing, runner, PROBABILITIES, task="predicting", progress=progress
    )
    # Raises where nothing can be used.
    audited = audit(dataset, infos, decoding=decoding, duplicates=())
    kept = [i for i, info in enumerate(infos) if info.broken is None]
    duplicates = find_duplicates(dataset, infos, ImageInfoCache(decoding=decoding))
    pictures = picture_ids(len(infos), (group.members for group in duplicates))[kept]
    photos = [dataset.photos[i] for i in kept]
    number = {name: index for index, name in enumerate(names)}
    labels: Labels = np.array([number[photo.label] for photo in photos], np.int64)
    logits: Floats = np.log(np.maximum(probabilities[kept], 1e-30))
    calibration = Calibration.fit(logits, labels, 0.0, temperature=1.0)
    held = evaluate_predictions(
        f"all photos of {dataset.name}", photos, labels, logits, calibration, names,
        pictures=pictures, fit=lambda indices: lambda others: softmax(logits[others]),
    )  # fmt: skip
    own = Threshold(0.0, predictor.card.threshold, None, reached=True)
    predicted = held.probabilities.argmax(axis=1)
    answered = own.answers(held.probabilities.max(axis=1))
    rejections = (*held.rejections[:-1], measure_rejection(own, answered, predicted == labels, held.weights))
    index_notes = class_index_notes(labels, predicted) if labelled_by == INDEX else ()
    measured = replace(dataset, photos=tuple(photos))
    return Evaluation(
        model=path,
        given=shown,
        data=dataset.name,
        held=replace(held, rejections=rejections),
        broken=tuple(f"{dataset.shown(dataset.photos[i].path)}: {f.reason}" for i, f in enumerate(infos) if f.broken),
        trained=find_trained_photos(path.parent, measured, [infos[i] for i in kept], decoding),
        shown=dataset.shown,
        threshold=own.value,
        decoding=decoding,
        source=os.fspath(data),
        labelled_by=labelled_by,
        reading=(*audited.notes, *index_notes),
        arguments=(
            *(word for name in ignore for word in ("--ignore", name)),
            *(["--allow-unseen"] if allow_unseen else []),
            *(word for name, value in read_by.items() for word in (f"--{name.replace('_', '-')}", value)),
            *([] if decoding.bits is None else ["--bits", str(decoding.bits)]),
        ),
    )


def _open_labelled(
    data: str | os.PathLike[str], ignore: Sequence[str], columns: dict[str, Any], run: Path
) -> tuple[Dataset, dict[str, Any]]:
    """Open the data set; a table without given columns is read with the run's columns if it has them."""
    if not columns and is_table(data) and (run / SETTINGS).is_file():
        settings = Settings.from_toml(run / SETTINGS)
        kept: dict[str, Any] = {name: value for name, value in settings.columns.items() if value is not None}
        if Path(settings.resolved_data).resolve() != Path(data).resolve():
            kept.pop("image_root", None)  # that of another table
        flags = " ".join(f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in kept.items())
        with suppress(UsageError):  # no such column
            found = open_dataset(data, ignore=ignore, training=False, **kept)
            notes = (*found.notes, f"The table is read as the run's: {flags}.") if kept else found.notes
            return replace(found, notes=notes), kept
    return open_dataset(data, ignore=ignore, training=False, **columns), columns


def _select_test_photos(dataset: Dataset) -> Dataset:
    count = len(dataset.photos)
    splits = {photo.split for photo in dataset.photos}
    split = next((name for name in ("test", "val") if name in splits), None)
    if split is None:
        note = f"No photo is marked test or val, so all {count:,} are measured, also those marked train."
        return replace(dataset, notes=(*dataset.notes, note)) if dataset.has_splits else dataset
    part = dataset.only(lambda photo: photo.split == split)
    note = f"The {split} photos are measured, {len(part.photos):,} of {count:,}."
    notes = (*part.notes, note) if len(part.photos) < count else part.notes
    return replace(part, name=f"{dataset.name} ({split})", notes=notes)


def _select_known_classes(
    dataset: Dataset, names: Sequence[str], model: str, allow_unseen: bool
) -> tuple[Dataset, tuple[str, ...], str]:
    """Map the labels to the model's class names; return the data set, all unique class names, and how it is labelled.

    Classes that the model does not know are an error, unless `allow_unseen` drops their photos and some photos remain.
    """
    labels = sorted({photo.label for photo in dataset.photos})
    notes, labelled_by = (*dataset.lookup_notes, *dataset.notes), "class name"
    own = {*names, *wnids()} if is_imagenet(names) else set(names)
    if empty := sorted({*dataset.classes} - {*labels} - own):
        notes = (*notes, f"Folders without any photo, of no class of the model: {_quote_names(empty)}.")
    if is_imagenet(names):
        found = match_imagenet(labels, dataset.name)
        pairs = zip(names, wnids(), strict=True)
        names = [f"{name} ({wnid})" if list(names).count(name) > 1 else name for name, wnid in pairs]
        matched, unknown = {label: names[index] for label, index in found.indices.items()}, found.unknown
        notes, labelled_by = (*notes, *found.notes), found.way
        hint = found.nearest(unknown[0]) if unknown else ""
    else:
        matched, unknown = match_names(labels, names, dataset.name)
        hint = suggest(unknown[0], names) if unknown else ""
    if unknown and not (allow_unseen and matched):
        knows = f"it knows {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        ways = "Rename the folders, or leave their photos out with --allow-unseen." if matched else ""
        raise UsageError(
            f"{dataset.name} has {counted(len(unknown), 'class')} that {model} does not know, such as "
            f"{unknown[0]!r}; {knows}. {hint} {ways}".replace("  ", " ").rstrip()
        )
    if twice := sorted({name for name in matched.values() if list(names).count(name) > 1}):
        raise UsageError(
            f"{model} has more than one class named {twice[0]!r}, so it cannot be told which one the photos in "
            f"{dataset.name} are of. Leave them out with --ignore."
        )
    kept = tuple(replace(photo, label=matched[photo.label]) for photo in dataset.photos if photo.label in matched)
    if out := len(dataset.photos) - len(kept):
        photos, classes = counted(out, "photo"), "classes" if len(unknown) > 1 else "a class"
        notes = (*notes, f"Left out: {photos} of {classes} that the model does not know: {_quote_names(unknown)}.")
    known = tuple(sorted(set(matched.values())))
    return replace(dataset, photos=kept, classes=known, notes=notes), tuple(names), labelled_by


def _quote_names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} others" if len(names) > 5 else "")
