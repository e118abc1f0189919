"""What a run was started with: `_vertebra/run.json` beside its parts, which a resumed run must match."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vertebra import __version__
from vertebra.errors import UsageError
from vertebra.sources.listing import ListedSource
from vertebra.storage import Location
from vertebra.strict_json import dumps

from .part_plan import CHUNK_PHOTOS, PartPlan

VERSION = 1  # of what is in the folder


@dataclass(frozen=True)
class RunDescription:
    """The model, the options and the photos of a run."""

    model: str  # as the user named it
    sha256: str  # of its file
    options: Mapping[str, int | bool | str]  # those that decide what a row says
    engine: str  # of --engine, which decides its last digits
    suffix: str  # of the parts
    unsure: bool  # whether there is a column for "none of the classes"
    source: Sequence[str]  # as the user gave it
    kind: str
    digest: str  # of the listing
    photos: int | None
    chunks: int
    group: int  # chunks of a part
    listing: Sequence[str] | None  # the checksums of the list of photos, where there is one
    folder: str  # that relative paths start from

    @property
    def plan(self) -> PartPlan:
        """Which chunks each part has."""
        return PartPlan(self.chunks, self.group)

    def listed(self, state: Location) -> ListedSource | None:
        """Return the source as it was listed; None if it has no list, but files that are opened again."""
        if self.listing is None or self.photos is None:
            return None
        uri = ", ".join(self.source)
        return ListedSource(uri, self.kind, self.digest, self.photos, state, CHUNK_PHOTOS, tuple(self.listing))

    def to_json(self) -> bytes:
        """Serialise it."""
        return dumps({"version": VERSION, "vertebra": __version__} | asdict(self), indent=1).encode("ascii")

    @staticmethod
    def from_json(content: bytes, place: str) -> RunDescription:
        """Parse it; a `UsageError` that names `place` if it is none, or a newer Vertebra's."""
        try:
            found: dict[str, Any] = json.loads(content)
            version = found.pop("version")
            made_by = found.pop("vertebra")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(
                f"{place} is damaged, so this run cannot be resumed. Give another --out, or delete the folder."
            ) from None
        if version != VERSION:
            raise UsageError(
                f"{place} was written by Vertebra {made_by}, whose runs have another layout ({version}, here "
                f"{VERSION}). Resume with that Vertebra, or give another --out."
            )
        try:
            return RunDescription(**found)._checked()
        except TypeError:
            raise UsageError(
                f"{place} is damaged, so this run cannot be resumed. Give another --out, or delete the folder."
            ) from None

    def _checked(self) -> RunDescription:
        """Return it; a `TypeError` if a value has another type than it was written with."""
        texts = (self.model, self.sha256, self.engine, self.suffix, self.kind, self.digest, self.folder, *self.source)
        numbers = (self.chunks, self.group, *([] if self.photos is None else [self.photos]))
        if not (
            all(isinstance(text, str) for text in (*texts, *(self.listing or [])))
            and all(type(number) is int and number >= 0 for number in numbers)
            and self.group > 0
            and isinstance(self.options, Mapping)
        ):
            raise TypeError
        return self

    def require_same(self, wanted: RunDescription, target: str) -> None:
        """Raise a `UsageError` unless a run with `wanted` may go on with this one."""
        if difference := self._difference(wanted):
            raise UsageError(
                f"{target} was made {difference}, so it cannot be resumed. Use what it was made with, or give another "
                "--out."
            )

    def _difference(self, wanted: RunDescription) -> str | None:
        if self.sha256 != wanted.sha256:
            ours, theirs = (f"{run.model} (SHA-256 {run.sha256[:12]}…)" for run in (self, wanted))
            return f"by the model {ours}, and this run's is {theirs}"
        if self.suffix != wanted.suffix:
            return f"as {self.suffix} files, and this run's are {wanted.suffix}"
        for name in (*self.options, *wanted.options):
            ours, theirs = (_option(name, run.options.get(name, False)) for run in (self, wanted))
            if ours != theirs:
                return f"{ours}, and this run is {theirs}"
        if list(self.source) != list(wanted.source):
            ours, theirs = (" ".join(run.source) for run in (self, wanted))
            return f"of the photos in {ours}, and this run is of {theirs}"
        if self.folder != wanted.folder:
            return f"in the folder {self.folder!r}, which its paths start from, and this run is in {wanted.folder!r}"
        return None


def _option(name: str, value: int | bool | str) -> str:
    return f"with{'' if value else 'out'} {name}" if isinstance(value, bool) else f"with {name} {value}"
