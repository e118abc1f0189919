"""The findings of an audit for HTML: the page of `vertebra audit --html`, and the reports of training runs."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vertebra.card import Decoding
from vertebra.files import atomic_write, wrap_write_errors
from vertebra.report import PhotoLinks, Thumbnails, package_versions, render
from vertebra.report import findings as shown_findings

from .audit_result import Audit, DuplicateFinding, UnusualPhoto
from .dataset import DataError, Dataset
from .image_info import ImageInfo

_MAX_SHOWN = 60  # photos or groups of a section
_MAX_GROUP = 6  # photos of a group
_MAX_LINES = 300  # unusable photos, and other lines
_EXPLANATIONS = {
    "same picture, different labels": "At most one of the labels is right.",
    "same picture, different splits": "A classifier recognises photos that it was trained on, so figures of the other "
    "split look better than they are.",
    "exact duplicates within a class": "The same bytes under several names.",
    "near-duplicates within a class": "The same picture mirrored, rotated, cropped or re-encoded.",
}


def write_page(
    dataset: Dataset,
    found: Audit,
    path: Path,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    command: str = "",
    infos: Sequence[ImageInfo] = (),
) -> None:
    """Write the page of an audit atomically; a failure is a DataError.

    With `infos` the page has a hash of all photos. `command` is shown as the one that reproduces the page; "": the
    default one.
    """
    lowest, median, highest = found.sizes
    tiles = [
        ("photos", f"{found.photos:,}", f"{found.usable:,} of them usable"),
        ("classes", f"{len(found.classes):,}", ""),
        ("shorter side, pixels", f"{median:,}", f"median; from {lowest:,} to {highest:,}"),
        ("largest / smallest class", f"{found.imbalance:.1f}", ""),
        *[(f"{name} split", f"{count:,}", "usable photos") for name, count in found.splits.items()],
    ]
    pictures, folder = Thumbnails(decoding), PhotoLinks(path.parent, (photo.path for photo in dataset.photos))
    content = shown_findings(findings(dataset, found), pictures, folder)
    command = command or f"vertebra audit {shlex.quote(str(dataset.root))} --html {shlex.quote(str(path))}"
    digest = hashlib.sha256("\n".join(sorted(info.sha256 for info in infos)).encode()).hexdigest()
    text = render(
        "audit.html",
        title=found.name,
        kind="Data audit",
        data={"pictures": pictures.data()},
        tiles=tiles,
        found=content,
        commands=[("This command makes the page again:", command)],
        facts={"data": str(dataset.root), "bits": "as the files say" if decoding.bits is None else str(decoding.bits)},
        versions=package_versions("numpy", "pillow"),
        # Independent of the order of the photos.
        hashes={"photos": f"{digest}, the SHA-256 of their sorted SHA-256, a line each"} if infos else {},
    )
    with wrap_write_errors(path, DataError), atomic_write(path, durable=True) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def findings(dataset: Dataset, found: Audit) -> dict[str, Any]:
    """Return the findings as values of JSON, which `vertebra.report.findings` renders."""

    def photos_of(group: DuplicateFinding) -> list[tuple[str, str, str]]:
        return [
            (dataset.place_of(path), path, " · ".join(filter(None, (kind, split))))
            for path, kind, split in group.photos()
        ]

    shown: dict[str, list[Any]] = {"groups": [], "odd": [], "lists": []}
    for title, entries in found.sections.items():
        if not entries or found.is_usual(entries):
            continue
        section = {
            "title": title[0].upper() + title[1:],
            "count": len(entries),
            "more": max(0, len(entries) - _MAX_SHOWN),
        }
        if groups := [entry for entry in entries[:_MAX_SHOWN] if isinstance(entry, DuplicateFinding)]:
            rows = [(photos_of(group)[:_MAX_GROUP], max(0, len(group.paths) - _MAX_GROUP)) for group in groups]
            shown["groups"].append(section | {"what": _EXPLANATIONS[title], "groups": rows})
        elif odd := [entry for entry in entries[:_MAX_SHOWN] if isinstance(entry, UnusualPhoto)]:
            photos = [(dataset.place_of(each.path), each.path, f"{each.width} × {each.height} pixels") for each in odd]
            shown["odd"].append(section | {"photos": photos})
        elif lines := [entry for entry in entries[:_MAX_LINES] if isinstance(entry, str)]:
            shown["lists"].append((section["title"], lines, len(entries)))
    return {
        "problems": found.problems,
        "conclusion": found.conclusion,
        "notes": list(found.notes),
        "classes": list(found.classes.items()),
        **shown,
        "broken": [
            (dataset.place_of(each.path), each.path, each.kind, each.reason) for each in found.broken[:_MAX_LINES]
        ],
        "broken_count": len(found.broken),
    }
