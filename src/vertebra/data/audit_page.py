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

from .audit_result import FEW, Audit, Group, UnusualPhoto
from .dataset import DataError, Dataset
from .image_info import ImageInfo

_MOST = 60  # photos or groups of a section
_OF_GROUP = 6  # photos of a group
_LINES = 300  # photos that cannot be used, and other lines


def write_page(
    dataset: Dataset,
    found: Audit,
    path: Path,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    command: str = "",
    facts: Sequence[ImageInfo] = (),
) -> None:
    """Write the page, whole or not at all; with the `facts` of the photos it names their content by a hash.

    `command` makes the page again; empty: the plainest one that does.

    Raises:
        DataError: it cannot be written.
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
        hashes={"photos": _digest(facts)} if facts else {},
    )
    with writing(path, DataError), replacing(path, durable=True) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def _digest(facts: Sequence[ImageInfo]) -> str:
    """One hash of all contents; another order of the photos gives the same."""
    hashes = "\n".join(sorted(fact.sha256 for fact in facts))
    return f"{hashlib.sha256(hashes.encode()).hexdigest()}, the SHA-256 of their sorted SHA-256, a line each"


def findings(dataset: Dataset, found: Audit) -> dict[str, Any]:
    """What `vertebra.report.findings` shows, as values of JSON: paths, and what is said of them."""

    def path_of(shown: str) -> str:
        return str((dataset.root / shown).absolute())

    def groups(title: str, what: str, groups: Sequence[Group]) -> dict[str, Any]:
        rows = []
        for group in groups[:_MOST]:
            count = len(group.paths)
            splits = group.splits if len(group.splits) == count else ("",) * count
            kinds = group.kinds or ("",) * count
            photos = [
                (path_of(path), path, " · ".join(part for part in (kind, split) if part))
                for path, kind, split in zip(group.paths, kinds, splits, strict=True)
            ]
            rows.append((photos[:_OF_GROUP], max(0, count - _OF_GROUP)))
        more = max(0, len(groups) - _MOST)
        return {"title": title, "what": what, "count": len(groups), "groups": rows, "more": more}

    def odd(title: str, photos: Sequence[UnusualPhoto]) -> dict[str, Any]:
        rows = [(path_of(each.path), each.path, f"{each.width} × {each.height} pixels") for each in photos[:_MOST]]
        more = max(0, len(photos) - _MOST)
        return {"title": title[0].upper() + title[1:], "count": len(photos), "photos": rows, "more": more}

    own = [group for group in found.groups if not group.contradicts and not group.leaks]
    grouped = (
        ("Same picture, different labels", "At most one of the labels is right.", found.contradictions),
        (
            "Same picture, different splits",
            "What a classifier has been trained on it recognises, so figures of the other split look better than they "
            "are.",
            found.leaks,
        ),
        ("Copies within a class", "The same bytes under several names.", [group for group in own if group.exact]),
        (
            "Near-duplicates within a class",
            "The same picture mirrored, rotated, cropped or re-encoded.",
            [group for group in own if not group.exact],
        ),
    )
    lists = (
        ("Class names that differ in case only", [" and ".join(names) for names in found.case_clashes]),
        (f"Classes with fewer than {FEW} photos", [f"{name}: {count}" for name, count in found.few.items()]),
        ("Folders that could not be listed", list(found.unreadable)),
        ("Other files, ignored", list(found.others)),
    )
    return {
        "problems": found.problems,
        "conclusion": found.conclusion,
        "notes": list(found.notes),
        "classes": list(found.classes.items()),
        "groups": [groups(title, what, entries) for title, what, entries in grouped if entries],
        "odd": [odd(title, photos) for title, photos in found.unusual if photos and not found.is_usual(photos)],
        "lists": [(title, lines[:_LINES], len(lines)) for title, lines in lists if lines],
        "broken": [(path_of(each.path), each.path, each.kind, each.reason) for each in found.broken[:_LINES]],
        "broken_count": len(found.broken),
    }
