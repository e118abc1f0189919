"""Notes on the photos that limit what the metrics of a run say, for the report, metrics.json and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vertebra.card import Decoding
from vertebra.data import Photo
from vertebra.units import counted

from .leakage import find_trained_photos
from .prepare import UsablePhotos
from .run_folder import SETTINGS
from .train_settings import Settings

FEW = 50  # held-out photos; metrics of fewer get a note


def sample_size_notes(count: int, pictures: int, what: str = "held out") -> list[str]:
    """Return notes on a small sample, or on duplicates in it."""
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


def data_notes(
    data: UsablePhotos, held: Sequence[Photo], settings: Settings, unmeasured: Sequence[Photo] = ()
) -> list[str]:
    """Return all notes on the photos of a run whose `held` photos were measured.

    `unmeasured` were held out, and are in no metric.
    """
    found = [*data.dataset.lookup_notes, *data.dataset.notes]
    if unreadable := data.audit.unreadable:
        found.append(f"Skipped: {'; '.join(unreadable[:3])}{'; …' if len(unreadable) > 3 else ''}.")
    # A table or text file beside the class folders is common; inside one it may be a photo with a wrong extension.
    if others := [name for name in data.audit.others if Path(name).parent.parts]:
        found.append(f"No photos, and ignored: {counted(len(others), 'file')} in class folders, such as {others[0]}.")
    if broken := data.audit.broken:
        found.append(unusable_note(len(broken), f"{broken[0].path}, which {broken[0].reason}"))
    if conflicting := data.audit.duplicates_across_labels:
        found.append(
            f"The same picture under different labels: {len(conflicting):,}, such as "
            f"{conflicting[0].shown(splits=False)}. It is learned as each of them."
        )
    number = dict(zip((photo.path for photo in data.photos), data.pictures.tolist(), strict=True))
    found += sample_size_notes(len(held), len({number[photo.path] for photo in held}))
    if unmeasured:
        found.append(
            f"Trained on but not measured: {len(unmeasured):,} photo{'s' if len(unmeasured) > 1 else ''} of "
            f"{_names({photo.label for photo in unmeasured})}, without another photo of the class to train on"
            f"{'' if held else ', or without a second class'}."
        )
    without = {photo.label for photo in data.photos} - {photo.label for photo in [*held, *unmeasured]}
    if held:
        found += absent_class_notes(without, len(data.names), "the held-out ones")
    if count := _count_trained_before(settings.resolved_weights, held, data, settings.decoding):
        found.append(
            f"The weights come from a run that was trained on {count:,} of these {len(held):,} photos or on copies of "
            "them, so it looks better than it is."
        )
    return found


def unusable_note(count: int, first: str) -> str:
    """Return the note on unusable photos; `first` is one of them with its reason."""
    photos = f"{count:,} photos that cannot be used, such as" if count > 1 else "a photo that cannot be used,"
    return f"Left out: {photos} {first.rstrip('.')}."


def absent_class_notes(without: set[str], count: int, among: str) -> list[str]:
    """Return a note on classes, of `count`, without a measured photo."""
    if not without:
        return []
    return [
        f"{len(without):,} of {count:,} classes without a photo among {among}, so no metric covers them: "
        f"{_names(without)}."
    ]


def _names(classes: set[str], max_names: int = 5) -> str:
    return ", ".join(sorted(classes)[:max_names]) + (", …" if len(classes) > max_names else "")


def _count_trained_before(weights: str, photos: Sequence[Photo], data: UsablePhotos, decoding: Decoding) -> int:
    """Count the photos that are training photos of the run that the weights come from, or duplicates of these."""
    run = Path(weights).parent
    try:
        if 'method = "probe"' in (run / SETTINGS).read_text(encoding="utf-8", errors="surrogateescape"):
            return 0  # its body was trained on none of them
    except OSError:
        return 0
    info_of = {photo.path: info for photo, info in zip(data.photos, data.infos, strict=True)}
    measured = replace(data.dataset, photos=tuple(photos))
    found = find_trained_photos(run, measured, [info_of[photo.path] for photo in photos], decoding)
    return len(found.files) + len(found.copies)
