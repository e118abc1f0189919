"""What an audit found, for pages: of the audit itself, and of a training run."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vertebra.card import Decoding
from vertebra.files import replacing, writing
from vertebra.report import Folder, Pictures, render, versions
from vertebra.report import findings as shown_findings

from .audit_result import Audit, Group, UnusualPhoto
from .dataset import DataError, Dataset
from .image_info import ImageInfo

_MOST = 60  # photos or groups of a section
_OF_GROUP = 6  # photos of a group
_LINES = 300  # photos that cannot be used, and other lines
_MEANINGS = {
    "same picture, different labels": "At most one of the labels is right.",
    "same picture, different splits": "What a classifier has been trained on it recognises, so figures of the other "
    "split look better than they are.",
    "copies within a class": "The same bytes under several names.",
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
    """Write the page, whole or not at all (DataError); with the `infos` of the photos it has a hash of their content.

    `command` makes the page again; empty: the plainest one that does.
    """
    least, median, most = found.sizes
    tiles = [
        ("photos", f"{found.photos:,}", f"{found.usable:,} of them usable"),
        ("classes", f"{len(found.classes):,}", ""),
        ("shorter side, pixels", f"{median:,}", f"median; from {least:,} to {most:,}"),
        ("largest / smallest class", f"{found.imbalance:.1f}", ""),
        *[(f"{name} split", f"{count:,}", "usable photos") for name, count in found.splits.items()],
    ]
    pictures, folder = Pictures(decoding), Folder(path.parent, (photo.path for photo in dataset.photos))
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
        versions=versions("numpy", "pillow"),
        # Another order of the photos gives the same.
        hashes={"photos": f"{digest}, the SHA-256 of their sorted SHA-256, a line each"} if infos else {},
    )
    with writing(path, DataError), replacing(path, durable=True) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def findings(dataset: Dataset, found: Audit) -> dict[str, Any]:
    """What `vertebra.report.findings` shows, as values of JSON: paths, and what is said of them."""

    def path_of(shown: str) -> str:
        return str((dataset.root / shown).absolute())

    def photos_of(group: Group) -> list[tuple[str, str, str]]:
        return [(path_of(path), path, " · ".join(filter(None, (kind, split)))) for path, kind, split in group.photos()]

    shown: dict[str, list[Any]] = {"groups": [], "odd": [], "lists": []}
    for title, entries in found.sections.items():
        if not entries or found.is_usual(entries):
            continue
        section = {"title": title[0].upper() + title[1:], "count": len(entries), "more": max(0, len(entries) - _MOST)}
        if groups := [entry for entry in entries[:_MOST] if isinstance(entry, Group)]:
            rows = [(photos_of(group)[:_OF_GROUP], max(0, len(group.paths) - _OF_GROUP)) for group in groups]
            shown["groups"].append(section | {"what": _MEANINGS[title], "groups": rows})
        elif odd := [entry for entry in entries[:_MOST] if isinstance(entry, UnusualPhoto)]:
            photos = [(path_of(each.path), each.path, f"{each.width} × {each.height} pixels") for each in odd]
            shown["odd"].append(section | {"photos": photos})
        elif lines := [entry for entry in entries[:_LINES] if isinstance(entry, str)]:
            shown["lists"].append((section["title"], lines, len(entries)))
    return {
        "problems": found.problems,
        "conclusion": found.conclusion,
        "notes": list(found.notes),
        "classes": list(found.classes.items()),
        **shown,
        "broken": [(path_of(each.path), each.path, each.kind, each.reason) for each in found.broken[:_LINES]],
        "broken_count": len(found.broken),
    }
