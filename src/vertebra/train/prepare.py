"""One training run: from a data set to a folder with the exported classifier and its report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vertebra.card import Decoding
from vertebra.data import Album, Audit, Dataset, Facts, Photo, assign_folds, audit, find_duplicates, usable_part
from vertebra.units import counted

from .metrics import Floats, Labels, Measures, calibration_error, measure, weights_of
from .run_folder import DATA, SETTINGS, TrainError
from .temperature import Fit, Rejection, Threshold, cross_fitted, fit_temperature, fit_threshold, rejection, softmax
from .train_settings import Settings
from .trained_photos import trained_among

# What is being done, how much of it is done, how much it has in all.


@dataclass
class Clock:
    """Seconds that each step took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)


@dataclass(frozen=True)
class Labelled:
    """Usable photos with the numbers of their classes."""

    dataset: Dataset
    facts: list[Facts]
    audit: Audit
    names: tuple[str, ...]  # of the classes that have photos
    labels: Labels
    usable: list[int]  # places among the photos that were looked through
    alike: tuple[tuple[int, ...], ...]  # groups of places in `photos` that show the same picture
    audit_again: Callable[[Sequence[str]], Audit]  # with the splits of `photos`

    @property
    def photos(self) -> Sequence[Photo]:
        """In the order of `labels`."""
        return self.dataset.photos

    @property
    def pictures(self) -> Labels:
        """(N,), equal numbers for photos that show the same picture."""
        return pictures_of(len(self.labels), self.alike)

    def with_splits(self, splits: Sequence[str]) -> Labelled:
        """The same, audited with the splits that a run uses; of each photo."""
        return replace(self, audit=self.audit_again(splits))


def pictures_of(count: int, alike: Iterable[Sequence[int]]) -> Labels:
    """(count,), equal numbers for photos of the same picture, from groups of their places."""
    found = np.arange(count)
    for group in alike:
        found[list(group)] = min(group)
    return found


@dataclass(frozen=True)
class Held:
    """Predictions of photos that were not trained on, and what they are worth."""

    what: str  # how the photos were held out, for people
    photos: tuple[Photo, ...]
    labels: Labels
    logits: Floats  # (N, K), before calibration
    probabilities: Floats  # (N, K), calibrated by what was not fitted to these photos
    measures: Measures  # of the probabilities
    ece_before: float | None
    rejections: tuple[Rejection, ...]  # one for each of `PRECISIONS`, and the last for the precision that is wanted
    weights: Floats  # (N,), what each photo counts for: those of the same picture together as one


def usable_photos(dataset: Dataset, facts: list[Facts], settings: Settings) -> Labelled:
    """Leave out what cannot be used, and number the classes.

    Raises:
        DataError: nothing is left to tell apart, a class has no photo to train on, or `strict` and there are problems.
        TrainError: no photo is for training.
    """
    duplicates = find_duplicates(dataset, facts, Album(decoding=settings.decoding))
    found = audit(dataset, facts, decoding=settings.decoding, duplicates=duplicates)
    if settings.strict:
        found.check()
    usable = [index for index, fact in enumerate(facts) if fact.broken is None]
    kept, usable = usable_part(replace(dataset, notes=found.notes), usable, settings.allow_unseen)
    if all(photo.split not in ("train", None) for photo in kept.photos):
        splits = " and ".join(sorted({str(photo.split) for photo in kept.photos}))
        raise TrainError(
            f"{dataset.name} marks no photo for training. Change the split of some to train; all are in {splits}."
        )
    number = {name: index for index, name in enumerate(kept.classes)}
    labels = np.array([number[photo.label] for photo in kept.photos], np.int64)
    place_of = {index: place for place, index in enumerate(usable)}
    groups = (tuple(place_of[i] for i in group.members if i in place_of) for group in duplicates)

    def audit_again(splits: Sequence[str]) -> Audit:
        every = [""] * len(facts)
        for index, split in zip(usable, splits, strict=True):
            every[index] = split
        return audit(dataset, facts, every, settings.decoding, duplicates)

    alike = tuple(group for group in groups if len(group) > 1)
    return Labelled(kept, [facts[i] for i in usable], found, kept.classes, labels, usable, alike, audit_again)


def folds_of(data: Labelled, places: Sequence[int], settings: Settings) -> Labels:
    """The part that each of those photos is held out with."""
    if not places:
        raise TrainError(f"{data.dataset.name} marks no photo for training. Change the split of some to train.")
    hashes = [data.facts[place].sha256 for place in places]
    number = {place: index for index, place in enumerate(places)}
    alike = [[number[place] for place in group if place in number] for group in data.alike]
    folds = assign_folds(
        hashes,
        [group for group in alike if group],
        folds=settings.folds,
        seed=settings.seed,
        labels=[data.photos[place].label for place in places],
    )
    if len(set(folds)) < 2:
        raise TrainError(f"{data.dataset.name} has too few different photos to hold some out. Add photos.")
    return np.array(folds, np.int64)


FEW = 50  # held-out photos whose share of right answers says little


def few(count: int, pictures: int, what: str = "held out") -> list[str]:
    """What to know of figures of so few photos, or of photos that show fewer pictures."""
    if not count:
        return ["Nothing was measured: that takes two different photos of each of two classes at least."]
    found, kind = [], "photo"
    if pictures < count:
        kind = "different picture"
        found.append(
            f"The {count:,} photos that were {what} show {pictures:,} different picture{'s' if pictures > 1 else ''}: "
            "duplicates count once in intervals and thresholds."
        )
    if pictures < FEW:
        found.append(
            f"Only {pictures} {kind}{'s were' if pictures > 1 else ' was'} {what}, so these shares say little."
        )
    return found


def remarks(data: Labelled, held: Sequence[Photo], settings: Settings, unmeasured: Sequence[Photo] = ()) -> list[str]:
    """What to know before one trusts figures of the held-out photos.

    Args:
        data: all photos of the run.
        held: those that were measured.
        settings: of the run.
        unmeasured: photos that were held out and are in no figure.
    """
    found = [*data.dataset.place, *data.dataset.notes]
    if unreadable := data.audit.unreadable:
        found.append(f"Passed by: {'; '.join(unreadable[:3])}{'; …' if len(unreadable) > 3 else ''}.")
    # A table or a text beside the class folders is common; in them it may have been meant for a photo.
    if others := [name for name in data.audit.others if Path(name).parent.parts]:
        found.append(
            f"No photos, and left alone: {counted(len(others), 'file')} in class folders, such as {others[0]}."
        )
    if broken := data.audit.broken:
        found.append(cannot_be_used(len(broken), f"{broken[0].path}, which {broken[0].reason}"))
    if contradictions := data.audit.contradictions:
        found.append(
            f"The same picture under different labels: {len(contradictions):,}, such as "
            f"{contradictions[0].shown(splits=False)}. It is learned as each of them."
        )
    number = dict(zip((photo.path for photo in data.photos), data.pictures.tolist(), strict=True))
    found += few(len(held), len({number[photo.path] for photo in held}))
    if unmeasured:
        found.append(
            f"Not measured, though trained on: {len(unmeasured):,} photo{'s' if len(unmeasured) > 1 else ''} of "
            f"{_names({photo.label for photo in unmeasured})}, for want of another of the class to learn from"
            f"{'' if held else ', or of a second class to tell it from'}."
        )
    without = {photo.label for photo in data.photos} - {photo.label for photo in [*held, *unmeasured]}
    if held:
        found += unseen(without, len(data.names), "the held-out ones")
    if seen := seen_before(settings.weights_from_here, held, data, settings.decoding):
        found.append(
            f"The weights come from a run that was trained on {seen:,} of these {len(held):,} photos or on copies of "
            "them, so it looks better than it is."
        )
    return found


def cannot_be_used(count: int, first: str) -> str:
    """What to know where photos were left out; `first` says of one of them why."""
    photos = f"{count:,} photos that cannot be used, such as" if count > 1 else "a photo that cannot be used,"
    return f"Left out: {photos} {first.rstrip('.')}."


def unseen(without: set[str], count: int, among: str) -> list[str]:
    """What to know where some of all `count` classes have no photo to measure."""
    if not without:
        return []
    return [
        f"{len(without):,} of {count:,} classes without a photo among {among}, so no figure speaks of them: "
        f"{_names(without)}."
    ]


def _names(classes: set[str], most: int = 5) -> str:
    return ", ".join(sorted(classes)[:most]) + (", …" if len(classes) > most else "")


def seen_before(weights: str, photos: Sequence[Photo], data: Labelled, decoding: Decoding) -> int:
    """On how many of the photos, or copies of them, the network of weights in the folder of a run was trained."""
    run = Path(weights).parent
    try:
        if 'method = "probe"' in (run / SETTINGS).read_text(encoding="utf-8", errors="surrogateescape"):
            return 0  # its body had seen none
    except OSError:
        return 0
    fact_of = {photo.path: fact for photo, fact in zip(data.photos, data.facts, strict=True)}
    measured = replace(data.dataset, photos=tuple(photos))
    found = trained_among(run / DATA, measured, [fact_of[photo.path] for photo in photos], decoding)
    return len(found.files) + len(found.copies)


PRECISIONS = (0.9, 0.95, 0.98, 0.99)


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what a best probability has to be for each of some precisions."""

    temperature: float
    thresholds: tuple[Threshold, ...]  # for `PRECISIONS`, and the last for the precision that is wanted

    @staticmethod
    def fit(
        logits: Floats,
        labels: Labels,
        precision: float,
        temperature: float | None = None,
        pictures: Labels | None = None,
    ) -> Calibration:
        """From held-out photos, (N, K) and (N,); the temperature too, where none is given.

        Photos of equal numbers in `pictures` (N,) show the same picture.
        """
        weights = None if pictures is None else weights_of(pictures)
        own = fit_temperature(logits, labels) if temperature is None else temperature
        probabilities = softmax(logits / own)
        return Calibration(
            own, tuple(fit_threshold(probabilities, labels, value, weights) for value in (*PRECISIONS, precision))
        )


def judge(
    what: str,
    photos: Sequence[Photo],
    labels: Labels,
    logits: Floats,
    calibration: Calibration,
    names: Sequence[str],
    *,
    pictures: Labels | None = None,
    fit: Fit | None = None,
    parts: Labels | None = None,
) -> Held:
    """Measure predictions of held-out photos.

    Args:
        what: how the photos were held out, for people.
        photos: N of them.
        labels: (N,).
        logits: (N, K), before calibration.
        calibration: what is shipped.
        names: of the K classes.
        pictures: (N,), equal numbers for photos that show the same picture. None: no two do.
        fit: where the calibration was fitted to these very photos, what fits another one to some of them; each part is
            then measured by what was fitted to the others.
        parts: (N,), with `fit`; None: every fifth picture is a part.
    """
    targets = [threshold.target for threshold in calibration.thresholds]
    pictures = np.arange(len(labels)) if pictures is None else np.unique(pictures, return_inverse=True)[1]
    weights = weights_of(pictures)
    parts = pictures % min(5, max(1, len(labels))) if parts is None else parts
    if fit is not None and len(labels):
        probabilities, answered = cross_fitted(fit, labels, parts, targets, weights)
    else:
        probabilities = softmax(logits / calibration.temperature)
        confidence = probabilities.max(axis=1)
        answered = np.stack([threshold.answers(confidence) for threshold in calibration.thresholds], axis=1)
    right = probabilities.argmax(axis=1) == labels
    return Held(
        what=what,
        photos=tuple(photos),
        labels=labels,
        logits=logits,
        probabilities=probabilities,
        measures=measure(probabilities, labels, tuple(names), weights),
        ece_before=calibration_error(softmax(logits), labels),
        rejections=tuple(
            rejection(threshold, answered[:, column], right, weights)
            for column, threshold in enumerate(calibration.thresholds)
        ),
        weights=weights,
    )
