"""How good an exported classifier is on labelled photos."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
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
    check_indices,
    find_duplicates,
    is_table,
    match_imagenet,
    match_names,
    open_dataset,
)
from vertebra.errors import UsageError, nearest
from vertebra.files import replacing, writing
from vertebra.imagenet import is_imagenet, wnids
from vertebra.loading import exported_file
from vertebra.model_argument import ModelArgument, ModelKind, resolve_model
from vertebra.progress import Progress, silent
from vertebra.report import interval, percent, versions
from vertebra.runtime.engine import PROBABILITIES
from vertebra.runtime.predictor import Predictor
from vertebra.units import counted

from .data_notes import absent_class_notes, sample_size_notes, unusable_note
from .dataset_features import infer_dataset
from .evaluation import Calibration, EvaluatedPredictions, evaluate_predictions
from .leakage import TrainedPhotos, find_trained_photos, trained_notes
from .metrics import Floats, Labels, weights_of
from .report_page import Report, described
from .run_folder import SETTINGS, TrainError
from .temperature import softmax
from .thresholds import Rejection, Threshold, rejection
from .train_settings import Settings
from .usable_photos import pictures_of


@dataclass(frozen=True)
class Evaluation:
    """What was measured. The file's probabilities are calibrated already, so there is one calibration error."""

    model: Path  # the exported file, which may lie in the cache or be made for this run alone
    given: str  # the model for people, and for the command that measures the same
    data: str
    held: EvaluatedPredictions
    broken: tuple[str, ...]  # photos that could not be used, and why
    trained: TrainedPhotos  # those of the photos that were measured that the classifier was trained on, by their places
    shown: Callable[[Path], str]  # how the path of a photo is written for people
    threshold: float | None
    decoding: Decoding  # of the photos' files
    source: str  # the data as it was given
    labelled_by: str = "class name"  # or "wnid", "wnid and name", "class index": how it says a photo's class
    reading: tuple[str, ...] = ()  # what was joined, left out or ignored when the photos were found
    arguments: tuple[str, ...] = ()  # of the command that measures the same, beside model and data

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
        """What the file's threshold does: the share of photos answered rather than "unsure", and of right ones."""
        return self.held.rejections[-1]

    @property
    def notes(self) -> list[str]:
        """What limits the metrics."""
        notes = [*self.reading, *sample_size_notes(self.held.metrics.n, self.held.metrics.pictures, "measured")]
        classes = self.held.metrics.classes
        notes += absent_class_notes({c.name for c in classes if not c.photos}, len(classes), "these")
        notes += trained_notes(self.trained, self.held, self.shown)
        if self.broken:
            notes.append(unusable_note(len(self.broken), self.broken[0]))
        return notes

    def write(self, path: Path) -> None:
        """Write the report as a page.

        Raises:
            TrainError: it cannot be written.
        """
        m = self.held.metrics
        command = shlex.join(["vertebra", "evaluate", self.given, self.source, *self.arguments])
        if self.decoding.bits is not None:
            command += f" --bits {self.decoding.bits}"
        card = read_card(self.model)
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
            facts={"model": self.given, "data": self.source, "preprocessing": described(card.preprocessing)},
            versions=versions("numpy", "pillow", "onnxruntime"),
            hashes={} if card.content_sha256 is None else {f"{name}, SHA-256": card.content_sha256},
        )
        text = page.html(path.parent)
        with writing(path, TrainError), replacing(path, durable=True) as temporary:
            temporary.write_bytes(text.encode("utf-8"))


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
    tell: Progress = silent,
) -> Evaluation:
    """All metrics of an exported classifier.

    Args:
        model: the folder of a run, an exported file, or what else `vertebra.load` takes.
        data: labelled photos, as `open_dataset` takes them; where they have a split, those of `test` count (or of
            `val`, where there is no `test`).
        engine: as `vertebra.load` takes it.
        ignore: what to leave out, as for `open_dataset`.
        allow_unseen: leave out the photos of classes that the model does not know, instead of refusing them.
        bits: as `vertebra.load` takes it.
        path_column: of a table, as `open_dataset` takes it. Where neither this nor one of the next three is given, a
            table that has the columns that a run was trained with is read by these.
        label_column: likewise.
        split_column: likewise.
        image_root: likewise.
        tell: called with what is being done, the photos done and the photos in all.

    Raises:
        UsageError: the model has no class names, or the data has classes that it does not know.
        DataError: the data cannot be used, or a class may be one of the model's or not.
    """
    argument = resolve_model(model, "evaluate")
    path = exported_file(argument)
    shown = _shown(argument, path)
    predictor = Predictor(path, engine=engine, bits=bits)
    names = predictor.card.classes
    if names is None:
        raise UsageError(f"{shown} has no class names in its card, so labels cannot be matched. Export with --classes.")
    root = None if image_root is None else os.fspath(image_root)
    columns = {"path_column": path_column, "label_column": label_column, "split_column": split_column}
    given = {name: value for name, value in (columns | {"image_root": root}).items() if value is not None}
    opened, said = _opened(data, ignore, given, Path(model))
    dataset = _test_part(opened)
    labelled = _with_known_classes(dataset, names, shown, allow_unseen)
    dataset, names = labelled.dataset, labelled.names
    facts, probabilities = infer_dataset(
        dataset,
        predictor.preprocessing,
        predictor.runner(predictor.batch),
        PROBABILITIES,
        task="predicting",
        progress=tell,
    )
    # Raises where nothing can be used.
    decoding = predictor.preprocessing.decoding
    audited = audit(dataset, facts, decoding=decoding, duplicates=())
    kept = [i for i, fact in enumerate(facts) if fact.broken is None]
    duplicates = find_duplicates(dataset, facts, ImageInfoCache(decoding=decoding))
    pictures = pictures_of(len(facts), (group.members for group in duplicates))[kept]
    photos = [dataset.photos[i] for i in kept]
    number = {name: index for index, name in enumerate(names)}
    labels: Labels = np.array([number[photo.label] for photo in photos], np.int64)
    logits: Floats = np.log(np.maximum(probabilities[kept], 1e-30))
    threshold = predictor.card.threshold
    calibration = Calibration.fit(logits, labels, 0.0, temperature=1.0)
    held = evaluate_predictions(
        f"all photos of {dataset.name}", photos, labels, logits, calibration, names,
        pictures=pictures, fit=lambda places: lambda others: softmax(logits[others]),
    )  # fmt: skip
    own = Threshold(0.0, threshold, None, reached=True)
    right = held.probabilities.argmax(axis=1) == labels
    held = replace(
        held,
        rejections=(
            *held.rejections[:-1],
            rejection(own, own.answers(held.probabilities.max(axis=1)), right, weights_of(pictures)),
        ),
    )
    measured = replace(dataset, photos=tuple(photos))
    doubts = check_indices(labels, held.probabilities.argmax(axis=1)) if labelled.labelled_by == INDEX else ()
    trained = find_trained_photos(path.parent, measured, [facts[i] for i in kept], decoding)
    return Evaluation(
        model=path,
        given=shown,
        data=dataset.name,
        held=held,
        broken=tuple(f"{dataset.shown(dataset.photos[i].path)}: {f.reason}" for i, f in enumerate(facts) if f.broken),
        trained=trained,
        shown=dataset.shown,
        threshold=threshold,
        decoding=predictor.preprocessing.decoding,
        source=os.fspath(data),
        labelled_by=labelled.labelled_by,
        reading=(*audited.notes, *doubts),
        arguments=(
            *(word for name in ignore for word in ("--ignore", name)),
            *(["--allow-unseen"] if allow_unseen else []),
            *(word for name, value in said.items() for word in (f"--{name.replace('_', '-')}", value)),
        ),
    )


def _shown(model: ModelArgument, path: Path) -> str:
    """A model for people: as it was given where its file lies in the cache or is made for this run alone."""
    return model.given if model.kind in (ModelKind.NETWORK, ModelKind.FUNCTION) else str(path)


def _opened(
    data: str | os.PathLike[str], ignore: Sequence[str], said: dict[str, Any], run: Path
) -> tuple[Dataset, dict[str, Any]]:
    """The data set, and what was said of its table: by the call, or else by the run, if the table has its columns."""
    kept = {} if said or not is_table(data) else _said_by(run, data)
    if kept:
        try:
            found = open_dataset(data, ignore=ignore, training=False, **kept)
        except UsageError:  # no such column
            kept = {}
        else:
            flags = " ".join(f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in kept.items())
            return replace(found, notes=(*found.notes, f"The table is read as the run's: {flags}.")), kept
    return open_dataset(data, ignore=ignore, training=False, **said), said


def _said_by(run: Path, data: str | os.PathLike[str]) -> dict[str, Any]:
    """What the settings of a run say of its table; where the photos are, of the same table only."""
    if not (run / SETTINGS).is_file():
        return {}
    settings = Settings.from_toml(run / SETTINGS)
    is_same = Path(settings.data_from_here).resolve() == Path(data).resolve()
    said = {name: value for name, value in settings.columns.items() if value is not None}
    return {name: value for name, value in said.items() if is_same or name != "image_root"}


def _test_part(dataset: Dataset) -> Dataset:
    for split in ("test", "val"):
        if any(photo.split == split for photo in dataset.photos):
            part = dataset.only(lambda photo, wanted=split: photo.split == wanted)  # type: ignore[misc]
            count, of = len(part.photos), len(dataset.photos)
            note = f"The {split} photos are measured, {count:,} of {of:,}."
            notes = (*part.notes, note) if count < of else part.notes
            return replace(part, name=f"{dataset.name} ({split})", notes=notes)
    if dataset.has_splits:
        note = f"No photo is marked test or val, so all {len(dataset.photos):,} are measured, also those marked train."
        return replace(dataset, notes=(*dataset.notes, note))
    return dataset


@dataclass(frozen=True)
class _MatchedDataset:
    """A data set whose labels are a model's names of its classes."""

    dataset: Dataset
    names: tuple[str, ...]  # of all the model's classes, no two alike
    labelled_by: str  # how the data set says which class a photo is of


def _with_known_classes(dataset: Dataset, names: Sequence[str], model: str, allow_unseen: bool) -> _MatchedDataset:
    """The data set with the model's own names of its classes, and without the classes that the model does not know.

    Raises:
        UsageError: there are some, and they may not be left out; or none is left.
    """
    labels = sorted({photo.label for photo in dataset.photos})
    notes, labelled_by = (*dataset.place, *dataset.notes), "class name"
    own = {*names, *wnids()} if is_imagenet(names) else set(names)
    if empty := sorted({*dataset.classes} - {*labels} - own):
        more = f" and {len(empty) - 5} others" if len(empty) > 5 else ""
        shown = ", ".join(map(repr, empty[:5]))
        notes = (*notes, f"Folders without any photo, of no class of the model: {shown}{more}.")
    if is_imagenet(names):
        found = match_imagenet(labels, dataset.name)
        names = [
            f"{name} ({wnid})" if list(names).count(name) > 1 else name
            for name, wnid in zip(names, wnids(), strict=True)
        ]
        matched, unknown = {label: names[index] for label, index in found.indices.items()}, found.unknown
        notes, labelled_by = (*notes, *found.notes), found.way
        hint = found.nearest(unknown[0]) if unknown else ""
    else:
        matched, unknown = match_names(labels, names, dataset.name)
        hint = nearest(unknown[0], names) if unknown else ""
    knows = f"it knows {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
    if unknown and not (allow_unseen and matched):
        ways = "Rename the folders, or leave their photos out with --allow-unseen." if matched else ""
        raise UsageError(
            f"{dataset.name} has {counted(len(unknown), 'class')} that {model} does not know, such as "
            f"{unknown[0]!r}; {knows}. {hint} {ways}".replace("  ", " ").rstrip()
        )
    twice = sorted({name for name in matched.values() if list(names).count(name) > 1})
    if twice:
        raise UsageError(
            f"{model} has more than one class named {twice[0]!r}, so it cannot be told which one the photos in "
            f"{dataset.name} are of. Leave them out with --ignore."
        )
    kept = tuple(replace(photo, label=matched[photo.label]) for photo in dataset.photos if photo.label in matched)
    if out := len(dataset.photos) - len(kept):
        listed = ", ".join(map(repr, unknown[:5])) + (f" and {len(unknown) - 5} others" if len(unknown) > 5 else "")
        photos, classes = counted(out, "photo"), "classes" if len(unknown) > 1 else "a class"
        notes = (*notes, f"Left out: {photos} of {classes} that the model does not know: {listed}.")
    known = tuple(sorted(set(matched.values())))
    return _MatchedDataset(replace(dataset, photos=kept, classes=known, notes=notes), tuple(names), labelled_by)
