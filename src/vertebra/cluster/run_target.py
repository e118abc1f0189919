"""The folder that a run writes: parts, and in `_vertebra/` what it was started with and which parts are whole."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field

from vertebra.errors import UsageError, VertebraError
from vertebra.sources.photo_folder import RESULTS_STATE as STATE
from vertebra.storage import Entry, Location, StorageError
from vertebra.strict_json import dumps
from vertebra.units import counted

from .manifest import Manifest, PartRecord
from .parts import part_name
from .run_description import RunDescription

_UNFINISHED = re.compile(r"\.(part-\d+|run|done-\d+|summary|token|_SUCCESS)\.[0-9a-f]{12}(\.\w+)?")
_PART = re.compile(r"part-\d{6,}\.\w+")
TOKEN = "token"  # noqa: S105 - a file by which a node tells that it sees the same folder


@dataclass
class RunTarget:
    """The folder of one run; the driver alone writes to its state."""

    location: Location
    again: int = 0  # photos of earlier runs whose parts are made again
    changed: list[str] = field(default_factory=list)  # of these parts, those that another program has changed
    token: bytes = field(default_factory=lambda: os.urandom(8).hex().encode())

    def __post_init__(self) -> None:
        self.state = self.location / STATE
        self.manifest = Manifest(self.state)

    def read_description(self) -> RunDescription | None:
        """Return what the run in it was started with; None if there is none.

        Raises:
            UsageError: it is a file, or a folder with files of others.
        """
        place = self.state / "run.json"
        try:
            content = place.read_bytes()
        except StorageError as error:
            if not error.is_missing:
                self._require_folder()
                raise
            self._require_folder()
            return None
        return RunDescription.from_json(content, str(place))

    def _require_folder(self) -> None:
        if self.location.is_file():
            raise UsageError(
                f"{self.location} is a file, and --ray writes a folder. Give another --out, or resume it without --ray."
            )
        if not self.location.is_folder():
            return
        for other in self._files():
            if _PART.fullmatch(other):
                raise UsageError(
                    f"{self.state / 'run.json'} is gone, so that the run in {self.location} cannot be resumed. Give "
                    "another --out; its parts are whole and stay."
                )
            raise UsageError(f"{self.location} is a folder with other files ({other}). Give another --out.")

    def begin(self, run: RunDescription) -> None:
        """Start a run in the empty folder."""
        (self.state / "run.json").write(run.to_json())

    def resume(self) -> None:
        """Go on with the run in it."""
        self.manifest.load()

    def has_parts(self) -> bool:
        """Whether a part has been written, whole or not."""
        return bool(self._files())

    def clear(self) -> None:
        """Remove its folders, if this process has made them for nothing."""
        if not self.location.is_remote:
            for folder in (self.state, self.location):
                with suppress(OSError):  # there is something in it
                    folder.path.rmdir()

    def write_token(self) -> None:
        """Write the file by which a node tells that it sees the same folder."""
        (self.location / "_SUCCESS").delete()
        (self.state / TOKEN).write(self.token)

    def missing(self, run: RunDescription) -> list[int]:
        """Return the numbers of the parts to make: those that are not whole, or have errors."""
        files = self._files()
        found = []
        for number in range(len(run.plan)):
            name = part_name(number, run.suffix)
            record = self.manifest.records.get(name)
            is_whole = record is not None and _is_as_written(files.get(name), record)
            if record is None or record.errors or not is_whole:
                found.append(number)
                self.again += 0 if record is None else record.rows
                self.changed += [name] if name in files and record is not None and not is_whole else []
                self.manifest.discard(name)
        return found

    def notes(self) -> list[str]:
        """Return what a user should know of the parts that earlier runs have made."""
        lines = []
        if self.changed:
            number = counted(len(self.changed), "part")
            lines.append(
                f"{number} of {self.location} (the first: {self.changed[0]}) changed by another program; made again."
            )
        if self.manifest.damaged:
            number = counted(self.manifest.damaged, "line")
            lines.append(f"{number} of {self.state}/done-….jsonl damaged; the parts recorded there are made again.")
        return lines

    def what_is_kept(self) -> str:
        """Return what can be done where the run cannot go on, and what of it is whole."""
        parts, rows = len(self.manifest.records), self.manifest.rows
        kept = f"; the {counted(parts, 'part')} that are done, with {counted(rows, 'row')}, are whole and stay"
        return f"Give another --out{kept if parts else ''}."

    def _files(self) -> dict[str, Entry]:
        """Return each file by its path in the folder, of those that readers take for results."""
        root = (self.location / "-").uri[:-1]
        try:
            files = {entry.location.uri.removeprefix(root): entry for entry in self.location.list()}
        except StorageError as error:
            if error.is_missing:
                return {}
            raise
        return {path: entry for path, entry in files.items() if not path.startswith(("_", "."))}

    def _delete_unfinished(self) -> None:
        """Delete what was being written when its writer was killed, on file systems that have such files."""
        if not self.location.is_remote:
            for path in [*self.location.path.glob(".*"), *self.state.path.glob(".*")]:
                if _UNFINISHED.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def finish(self, run: RunDescription) -> None:
        """Check that the parts are those of the manifest and of the listing, and mark the run as finished.

        Raises:
            VertebraError: a part is not there or has another size, or there are fewer or more rows than photos.
        """
        files = self._files()
        names = [part_name(number, run.suffix) for number in range(len(run.plan))]
        for name in names:
            record = self.manifest.records.get(name)
            if record is None or not _is_as_written(files.get(name), record):
                raise VertebraError(
                    f"{self.location / name} is not as it was written: another program has changed it. Run the same "
                    "command again with --resume."
                )
        if other := sorted(name for name in files.keys() - set(names) if name.endswith(run.suffix)):
            raise VertebraError(
                f"{self.location} has {counted(len(other), 'file')} that this run has not written ({other[0]}), which "
                "readers take for results. Move them elsewhere."
            )
        rows = sum(self.manifest.records[name].rows for name in names)
        if run.photos is not None and rows != run.photos:
            raise VertebraError(
                f"{self.location} has {counted(rows, 'row')} of {counted(run.photos, 'photo')}: the source has changed "
                "since it was listed. Give another --out."
            )
        self._delete_unfinished()
        summary = {"photos": rows, "failed": self.manifest.errors, "parts": len(names)}
        (self.state / "summary.json").write(dumps(summary, indent=1).encode("ascii"))
        (self.location / "_SUCCESS").write(b"")

    def end(self) -> None:
        """Write the manifest, and remove the token."""
        try:
            self.manifest.flush()
        finally:
            (self.state / TOKEN).delete()

    def add(self, record: PartRecord) -> None:
        """Record a part that is whole."""
        self.manifest.add(record)


def _is_as_written(found: Entry | None, record: PartRecord) -> bool:
    """Whether a part is there as it was written. Its content is read where it has another time alone."""
    if found is None or found.size != record.bytes:
        return False
    # An object store tells fractions of a second in some answers only.
    unit = 1_000_000_000 if found.location.is_remote else 1
    if found.mtime_ns // unit == record.mtime_ns // unit:
        return True
    return hashlib.sha256(found.location.read_bytes()).hexdigest() == record.sha256


def require_same_target(target: Location, token: bytes) -> None:
    """Raise a `VertebraError` if the target that this process sees is not the driver's."""
    try:
        seen = (target / STATE / TOKEN).read_bytes()
    except StorageError as error:
        if not error.is_missing:
            raise
        seen = b""
    if seen != token:
        raise VertebraError(
            f"{target} is another folder there than where the command runs. Give one that all nodes share, or s3://…"
        )
