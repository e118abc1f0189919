"""The audit as one HTML file that opens offline, with thumbnails of what was found."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from vertebra.card import Decoding
from vertebra.errors import ImageError
from vertebra.files import replacing, writing
from vertebra.pixels import open_image

from ._audit import FEW, Audit, Group, Odd
from ._dataset import DataError, Dataset

_THUMBNAIL = 112  # pixels of the longer side
_MOST = 60  # thumbnails or groups of a section: a page of 200 kB, not of 200 MB

STYLE = """
:root{color-scheme:light dark;--line:#8884;--faint:#8882;--bad:#c0392b;--accent:#2e6fba}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2.2rem 0 .5rem;border-top:1px solid var(--line);
padding-top:1rem}p{margin:.3rem 0}.facts{display:flex;flex-wrap:wrap;gap:.6rem;margin:1rem 0}
.facts div{background:var(--faint);border-radius:8px;padding:.5rem .9rem}.facts b{display:block;font-size:1.25rem}
.bad{color:var(--bad)}.row{display:flex;flex-wrap:wrap;gap:.7rem}.group{border:1px solid var(--line);
border-radius:8px;padding:.5rem;margin:.4rem 0;display:inline-flex;gap:.6rem;flex-wrap:wrap;vertical-align:top}
figure{margin:0;width:120px}figure img{max-width:112px;max-height:112px;display:block;border-radius:4px}
figcaption{font-size:11px;line-height:1.3;overflow-wrap:anywhere}table{border-collapse:collapse;width:100%}
td,th{text-align:left;padding:.15rem .8rem .15rem 0;border-bottom:1px solid var(--faint);overflow-wrap:anywhere}
.bars{columns:18rem}.bar{display:flex;gap:.5rem;font-size:12px;break-inside:avoid}.bar span{width:9rem;overflow:hidden;
white-space:nowrap;text-overflow:ellipsis}.bar i{background:var(--accent);height:10px;margin:4px 0;border-radius:2px}
"""


def write_page(
    dataset: Dataset,
    found: Audit,
    path: Path,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> None:
    """Write the page, whole or not at all; `decoding` is that by which the audit found what it shows.

    Raises:
        DataError: it cannot be written.
    """
    text = page(f"Data audit: {found.name}", sections(dataset, found, decoding))
    with writing(path, DataError), replacing(path, durable=True) as temporary:
        # A file's name may hold bytes that are no text.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def page(title: str, body: str) -> str:
    """A whole HTML document that loads nothing."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def sections(dataset: Dataset, found: Audit, decoding: Decoding) -> str:
    """The body of the page."""
    least, median, most = found.sizes
    numbers = [
        ("photos", f"{found.photos:,}"),
        ("usable", f"{found.usable:,}"),
        ("classes", f"{len(found.classes):,}"),
        ("shorter side, pixels", f"{least:,} – {most:,}, median {median:,}"),
        ("largest / smallest class", f"{found.imbalance:.1f}"),
        *[(name, f"{count:,}") for name, count in found.splits.items()],
    ]
    parts = ['<div class="facts">' + "".join(f"<div><b>{b}</b>{escape(a)}</div>" for a, b in numbers) + "</div>"]
    for problem in found.problems:
        parts.append(f'<p class="bad">{escape(problem)}</p>')
    if not found.problems:
        parts.append(f'<p class="good">{escape(found.conclusion)}</p>')
    parts += [f"<p>{escape(note)}</p>" for note in found.notes]
    if found.broken:
        rows = "".join(
            f"<tr><td>{escape(b.path)}</td><td>{escape(b.kind)}</td><td>{escape(b.reason)}</td></tr>"
            for b in found.broken[: 5 * _MOST]
        )
        parts.append(_section("Cannot be used", len(found.broken), f"<table>{rows}</table>"))
    own = [group for group in found.groups if not group.contradicts and not group.leaks]
    for title, groups in (
        ("Same picture, different labels", found.contradictions),
        ("Same picture, different splits", found.leaks),
        ("Copies within a class", [group for group in own if group.exact]),
        ("Near-duplicates within a class", [group for group in own if not group.exact]),
    ):
        if groups:
            parts.append(_section(title, len(groups), _groups(dataset, groups, decoding)))
    for title, odd in found.odd:
        if odd and not found.is_usual(odd):
            parts.append(_section(title[0].upper() + title[1:], len(odd), _odd(dataset, odd, decoding)))
    for title, lines in (
        ("Class names that differ in case only", [" and ".join(names) for names in found.case_clashes]),
        (f"Classes with fewer than {FEW} photos", [f"{name}: {count}" for name, count in found.few.items()]),
        ("Folders passed by", list(found.unreadable)),
        ("Other files, left alone", list(found.others[:_MOST])),
    ):
        if lines:
            parts.append(_section(title, len(lines), "".join(f"<p>{escape(line)}</p>" for line in lines)))
    parts.append(_section("Photos of each class", len(found.classes), _bars(found.classes)))
    return "".join(parts)


def _section(title: str, count: int, content: str) -> str:
    return f"<h2>{escape(title)}: {count:,}</h2>{content}"


def _bars(classes: dict[str, int]) -> str:
    most = max(classes.values())
    bars = (
        f'<div class="bar"><span>{escape(name)}</span><i style="width:{90 * count / most:.1f}px"></i>{count:,}</div>'
        for name, count in classes.items()
    )
    return f'<div class="bars">{"".join(bars)}</div>'


def _groups(dataset: Dataset, groups: Sequence[Group], decoding: Decoding) -> str:
    shown = []
    for group in groups[:_MOST]:
        count = len(group.paths)
        splits = group.splits if len(group.splits) == count else ("",) * count
        figures = [
            thumbnail(dataset.root / path, " · ".join(part for part in (path, kind, split) if part), decoding)
            for path, kind, split in list(zip(group.paths, group.kinds or ("",) * count, splits, strict=True))[:6]
        ]
        rest = f"<p>and {len(group.paths) - 6} more</p>" if len(group.paths) > 6 else ""
        shown.append(f'<div class="group">{"".join(figures)}{rest}</div>')
    return " ".join(shown) + _more(len(groups))


def _odd(dataset: Dataset, odd: Sequence[Odd], decoding: Decoding) -> str:
    figures: Iterable[str] = (
        thumbnail(dataset.root / photo.path, f"{photo.path}, {photo.width} × {photo.height}", decoding)
        for photo in odd[:_MOST]
    )
    return f'<div class="row">{"".join(figures)}</div>' + _more(len(odd))


def _more(count: int) -> str:
    return f"<p>and {count - _MOST:,} more</p>" if count > _MOST else ""


def thumbnail(path: Path, caption: str, decoding: Decoding) -> str:
    """A small copy of a photo with its caption, as part of a page; an empty frame where it cannot be read any more."""
    try:
        picture = open_image(path, at_least=2 * _THUMBNAIL, decoding=decoding)
    except ImageError:
        return f"<figure><figcaption>{escape(caption)}</figcaption></figure>"
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=75)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
    )
