"""`Result`: the verdict of one experiment with what it was computed from, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from html import escape
from pathlib import Path
from typing import Any

from vertebra.errors import UsageError
from vertebra.files import atomic_write, wrap_write_errors
from vertebra.strict_json import dumps

from .each_network import REFUSED
from .experiment import Claim, Expected, Figure, Judgement, Kind, Measured, Verdict
from .file_stem import file_stem
from .inline_svg import inline_svg
from .picture import picture
from .registry import Entry, find_one

SCHEMA = 1  # of a result as JSON
LANGUAGES = ("en", "ja")


@dataclass(frozen=True)
class Result:
    """What one experiment found. Returned by `vertebra.lab.run(…)`."""

    number: str
    name: str
    claim: Claim
    verdict: Verdict
    reason: str
    decided_by: tuple[str, ...]  # names of the figures that decided, the most important first
    measured: Measured
    seconds: float  # that it took when it was measured
    settings: Mapping[str, Any]  # seeds, quick, device, data, models
    environment: Mapping[str, Any]  # machine, versions
    date: str
    kept: bool = False  # whether it is one that was kept, not measured now
    _drawn: dict[tuple[str, str], bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def entry(self) -> Entry:
        """The experiment that it is of."""
        return find_one(self.name)

    @property
    def figures(self) -> Mapping[str, Figure]:
        """The measured numbers by name."""
        return self.measured.figures

    @property
    def networks(self) -> tuple[str, ...]:
        """The user's networks that it was run on; empty where it ran on its own."""
        return tuple(self.settings["models"])

    @property
    def refused(self) -> Mapping[str, str]:
        """Those among them that it does not apply to, and why."""
        return dict(self.measured.series.get(REFUSED, {})) if self.networks else {}

    @staticmethod
    def judged(entry: Entry, claim: Claim, judgement: Judgement, measured: Measured, **how: Any) -> Result:
        """The result of a measurement and the judgement of it."""
        missing = [name for name in judgement.decided_by if name not in measured.figures]
        if missing:
            raise KeyError(f"{entry.name}: decided by {missing}, which was not measured")
        verdict, reason, decided_by = judgement.verdict, judgement.reason, judgement.decided_by
        # Lists for tuples and texts for numbers as keys, as in a result that was kept.
        measured = replace(measured, series=json.loads(json.dumps(dict(measured.series))))
        return Result(entry.number, entry.name, claim, verdict, reason, decided_by, measured, **how)

    @property
    def title(self) -> str:
        """Of the picture: of the user's networks, where it is of these."""
        return (self.networks and self.claim.networks_title) or self.claim.title

    @property
    def caption(self) -> str:
        """What to see in the picture."""
        return (self.networks and self.claim.networks_caption) or self.claim.caption

    @property
    def changed_seeds(self) -> int | None:
        """The number of seeds, where it is another than what the claim, or a quick run, has."""
        usual = min(1, self.claim.seeds) if self.settings["quick"] else self.claim.seeds
        return None if self.settings["seeds"] == usual else int(self.settings["seeds"])

    def file_name(self, suffix: str, language: str = "en") -> str:
        """The name of its file: `"01-vgg-parameters.svg"`, of a picture in Japanese `"01-vgg-parameters.ja.svg"`."""
        stem = file_stem(self.entry.stem, self.settings, self.changed_seeds)
        return f"{stem}{'' if language == 'en' or suffix != '.svg' else f'.{language}'}{suffix}"

    def picture(self, kind: str = "svg", language: str = "en") -> bytes:
        """The picture as SVG or PNG; with "ja" its texts are Japanese (SVG alone)."""
        if language not in LANGUAGES:
            raise UsageError(f"language is {language!r}; it must be {' or '.join(LANGUAGES)}.")
        if (kind, language) not in self._drawn:
            self._drawn[kind, language] = picture(self.entry, self, kind, language)
        return self._drawn[kind, language]

    def __repr__(self) -> str:
        lines = [f"{self.number} {self.name}: {self.verdict} ({self.seconds:.1f} s)", f"  {self.claim.claim}"]
        lines += [f"  {self.reason}", *(f"  {name}: {self.figures[name].text()}" for name in self.decided_by)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Claim, verdict and picture, as notebooks show them."""
        name, title, caption = f"{self.entry.stem}-", self.title, self.caption
        drawing = inline_svg(self.picture(), name, title, caption)
        said = f"<b>{escape(self.verdict)}</b>: {escape(self.reason)}"
        return f"<p>{self.number}. {escape(self.claim.claim)}<br>{said}</p><div style='max-width:60em'>{drawing}</div>"

    def save(self, folder: Path | str, language: str = "en") -> list[Path]:
        """Write the figures (`.json`) and the picture (`.svg`, `.png`) into a folder, and return their paths.

        Raises:
            UsageError: there is no such language.
            VertebraError: a file cannot be written.
        """
        contents = {
            ".json": dumps(self.to_dict(), indent=1).encode(),
            ".svg": self.picture("svg", language),
            ".png": self.picture("png"),
        }
        paths = [Path(folder) / self.file_name(suffix, language) for suffix in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            with wrap_write_errors(path), atomic_write(path) as temporary:
                temporary.write_bytes(content)
        return paths

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {**own, "claim": asdict(self.claim), "measured": self.measured.to_dict()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Result:
        """The result that `to_dict` returned, or that a file of it has.

        Raises:
            UsageError: it is none.
        """
        names = {each.name for each in fields(Result) if each.init}
        values = {name: value for name, value in values.items() if name != "schema"}
        if set(values) != names:
            hint = ' It has several; give one of its "results".' if "results" in values else ""
            told = f"lacks {', '.join(missing)}" if (missing := sorted(names - {*values})) else "has more"
            raise UsageError(f"this is no result of vertebra lab: it {told}.{hint}")
        claim = dict(values["claim"])
        claim["decided_by"] = tuple(Kind(kind) for kind in claim["decided_by"])
        claim["least_data"] = claim["least_data"] and tuple(claim["least_data"])
        claim["expected"] = {name: Expected(**e) for name, e in claim["expected"].items()}
        changed = {
            "claim": Claim(**claim),
            "verdict": Verdict(values["verdict"]),
            "decided_by": tuple(values["decided_by"]),
            "measured": Measured.from_dict(values["measured"]),
        }
        return Result(**{**values, **changed})
