"""Results into a file: .csv, .jsonl or .parquet; a run that was interrupted goes on where it stopped.

CSV and JSON lines are written as results come, whole lines only in the end: what a killed process left of its last
line is cut off before the next run goes on. A Parquet file is complete or not there; until then the results lie
beside it in `NAME.parquet.partial`, as JSON lines. A finished file survives a power cut, and of two runs that write to
one file the second is refused.

What the rows were made with (the model, the options that decide a row) is in the metadata of a Parquet file, and
beside the others in `NAME.meta.json`: a run with anything else does not add to them. A photo that is tried again keeps
the place of its row: the new one waits in `NAME.again` until the run ends, or until the next one begins.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import json
import os
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vertebra.errors import UsageError, VertebraError
from vertebra.files import Lines, locked, make_folder, replacing, write_whole

from .formats import Csv, JsonLines, need_pyarrow, parquet_lines, parquet_record, text_of_path, write_parquet
from .photo import Photo
from .photo_download import is_url
from .predictor import Prediction

SUFFIXES = (".csv", ".jsonl", ".parquet")

# What to do where there is no room.
_CURES = {errno.ENOSPC: "Make room", errno.EDQUOT: "Make room", errno.EFBIG: "Allow larger files"}


class OutputError(VertebraError):
    """Results cannot be written; what was written before is whole and can be gone on from."""


@dataclass
class Record:
    """What the rows of a file were made with, and when."""

    model: str  # as people know it
    sha256: str  # of its file
    options: dict[str, int | bool]  # those that decide a row
    folder: str  # that paths are relative to
    runs: list[tuple[int, float]] = field(default_factory=list)  # number of the first row, seconds since 1970
    again: list[tuple[int, float]] = field(default_factory=list)  # rows that were replaced, and when

    def to_json(self) -> bytes:
        """As it is kept."""
        return json.dumps({"format": 1} | asdict(self)).encode("ascii")

    @staticmethod
    def from_json(content: bytes) -> Record | None:
        """None where that is no record."""
        try:
            found = json.loads(content)
            runs, again = ([(int(row), float(at)) for row, at in found[name]] for name in ("runs", "again"))
            return Record(found["model"], found["sha256"], dict(found["options"]), found["folder"], runs, again)
        except (ValueError, KeyError, TypeError):
            return None

    def difference(self, other: Record) -> str | None:
        """In what another run differs: `"by …, and this run …"`; None where its rows are of one kind with these."""
        if self.sha256 != other.sha256:
            ours, theirs = (f"{record.model} (SHA-256 {record.sha256[:12]}…)" for record in (self, other))
            return f"by the model {ours}, and this run's is {theirs}"
        for name in (*self.options, *other.options):
            ours, theirs = (_said(name, record.options.get(name, False)) for record in (self, other))
            if ours != theirs:
                return f"{ours}, and this run is {theirs}"
        return None


def _said(name: str, value: int | bool) -> str:
    return f"with{'' if value else 'out'} {name}" if isinstance(value, bool) else f"with {name} {value}"


@dataclass
class _Rows:
    """What a file holds already."""

    numbers: dict[str, list[int]] = field(default_factory=dict)  # text of a path -> its rows; a failed row n is ~n
    count: int = 0
    failed: int = 0
    size: int = 0  # bytes of all that is whole
    relative: bool = False  # whether some path is relative to a folder


class Output:
    """A file that results are written to, used as `with Output(path, …) as output:`.

    Args:
        path: its suffix says the format.
        model: how people know the model, for messages.
        sha256: of the model's file.
        top: how many classes a photo gets, which is how many columns a table has for them.
        embed: whether there is a column for embeddings.
        options: others that decide what a row says, by their names on the command line.
        unsure: whether there is a column for "none of the classes".
        resume: keep what an earlier run has written, and leave those photos out whose rows have no error and which have
            not been changed since.

    Raises:
        UsageError: the suffix is not known, what is there is no file of results, or was made with another model or
            other options.
        MissingExtraError: a package for the format is not installed.
        InUseError: another process writes to it.
        OutputError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        model: str,
        sha256: str,
        top: int,
        embed: bool,
        options: Mapping[str, int | bool] | None = None,
        unsure: bool = False,
        resume: bool = False,
    ) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"the results' file is {str(path)!r}; its name must end in {' or '.join(SUFFIXES)}.")
        self.path = path
        self._parquet = path.suffix.lower() == ".parquet"
        if self._parquet:
            need_pyarrow()
        table = path.suffix.lower() == ".csv"
        self._format: Csv | JsonLines = Csv(top, embed, unsure) if table else JsonLines(top, embed, unsure)
        # Results are appended to this file.
        self._journal = path.with_name(f"{path.name}.partial") if self._parquet else path
        self._beside = path.with_name(f"{path.name}.meta.json")
        self._replaced = path.with_name(f"{path.name}.again")
        self._started = time.time()
        self._record = Record(model, sha256, {"--top": top, "--embed": embed, **(options or {})}, _here())
        self._rows = _Rows()
        self._waiting: defaultdict[str, deque[int]] = defaultdict(deque)  # rows that the next results of a path replace
        self._again: Lines | None = None
        self.total = 0  # photos in the file, and those of them that failed
        self.failed = 0
        self.again = 0  # photos of earlier runs that were tried again
        self.replaced = 0  # rows of an earlier run that this one does without
        self.absent = 0  # photos of earlier runs that are not given this time; known once `remaining` has ended
        with self._reporting(), contextlib.ExitStack() as opening:
            make_folder(path.parent)
            opening.enter_context(locked(path, "give another file with --out"))
            self._refuse_others()
            if not (resume and self._recover()):
                self._begin()
            self._lines = Lines(self._journal)
            self._lock = opening.pop_all()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._lock:
            try:
                with self._reporting():
                    self._close()
                    if kind is None and self._parquet:
                        self._finish_parquet()
                    elif kind is not None and issubclass(kind, OutputError) and not self.total:
                        self._forget()
            except OutputError:
                # What is left to do, the next run does; where this one ended badly, what ended it has to be known.
                if kind is None:
                    raise

    @property
    def done(self) -> int:
        """How many photos earlier runs have written, those that failed included."""
        return self._rows.count

    def remaining(self, photos: Iterable[Photo]) -> Iterator[Photo]:
        """The photos without a row, and those whose row is to be made again; one that is given twice has two."""
        left = dict(self._rows.numbers)
        for photo in photos:
            key = text_of_path(photo.path)
            rows = left.get(key)
            if not rows:
                yield photo
                continue
            row, left[key] = rows[0], rows[1:]
            if row < 0 or self._changed(photo.path, row):
                self._waiting[key].append(row)
                yield photo
        self.absent = sum(map(len, left.values()))

    def write(self, result: Prediction) -> None:
        """Append a result, or put it in the place of the row that it is to replace.

        Raises:
            OutputError: the disk is full, or the file cannot be written any more. It ends in a whole line.
        """
        line, failed = self._format.line(result), result.error is not None
        with self._reporting():
            self._write(text_of_path(result.path), line, failed)

    def _write(self, path: str, line: bytes, failed: bool) -> None:
        waiting = self._waiting.get(path)
        if waiting:
            row = waiting[0]
            if self._again is None:
                self._again = Lines(self._replaced)
            text = line.decode("utf-8", "surrogateescape")
            self._again.append((json.dumps([max(row, ~row), self._started, text]) + "\n").encode("ascii"))
            waiting.popleft()
            self.again += 1
            self.failed += failed - (row < 0)
        else:
            self._lines.append(line)
            self.total += 1
            self.failed += failed

    def _changed(self, path: str, row: int) -> bool:
        """Whether a photo is another than when its row was made, as far as the times of its file tell."""
        if is_url(path):
            return False
        try:
            status = os.stat(path)  # noqa: PTH116 - a name may be no path at all (a NUL in it)
        except (OSError, ValueError):
            return False
        # A file that is moved here keeps the time of its last change.
        return max(status.st_mtime, status.st_ctime) > self._made(row)

    def _made(self, row: int) -> float:
        """When the run began that wrote a row."""
        again = self._record.again
        at = bisect.bisect_left(again, row, key=lambda entry: entry[0])
        if at < len(again) and again[at][0] == row:
            return again[at][1]
        runs = self._record.runs
        return runs[max(0, bisect.bisect_right(runs, row, key=lambda entry: entry[0]) - 1)][1]

    # --- opening --------------------------------------------------------------------------------------------------

    def _refuse_others(self) -> None:
        """Leave alone what this command has not written, whether it would be added to or replaced."""
        if not self.path.exists():
            return
        if self.path.is_fifo():  # whose reader one would wait for
            raise UsageError(f"{self.path} is a pipe, which cannot be gone on with. Give a file.")
        if self._parquet:
            parquet_record(self.path)
            return
        with self.path.open("rb") as file:
            start = file.read(64)
        if not self._format.is_ours(start):
            raise UsageError(f"{self.path} is not a file that this command has written. Give another file.")

    def _begin(self) -> None:
        """Begin with no rows."""
        # Opened before the old content goes, so that a file that cannot be written is not emptied.
        with self._journal.open("ab"):
            pass
        self.replaced = self._earlier()
        self._replaced.unlink(missing_ok=True)
        try:
            self._journal.write_bytes(b"")
            # Before the first row, so that no row is ever without it.
            self._record.runs = [(0, self._started)]
            self._keep_record()
            with contextlib.closing(Lines(self._journal)) as lines:
                lines.append(self._format.head())
        except OSError:
            self._forget()
            raise

    def _earlier(self) -> int:
        """How many whole rows are there, whatever their columns."""
        with self._journal.open("rb") as file:
            rows = max(0, sum(1 for _ in self._format.records(file)) - bool(self._format.head()))
        return max(rows, parquet_record(self.path)[0]) if self._parquet and self.path.exists() else rows

    def _recover(self) -> bool:
        """Take over what earlier runs have written; False where they have written no row.

        The line that the last one was killed at is cut off.
        """
        unfolded = False
        if not self._journal.exists():
            if not (self._parquet and self.path.exists()):
                return False
            # A finished run: its rows are the beginning of this one.
            count, content = parquet_record(self.path)
            if not count:
                return False
            record = self._checked(Record.from_json(content))
            unfolded = True
        try:
            if unfolded:
                write_whole(self._beside, record.to_json())
                with replacing(self._journal) as temporary, temporary.open("wb") as file:
                    file.writelines(parquet_lines(self.path))
            kept = self._read_record()
            if kept is not None and self._journal.stat().st_size:
                self._checked(kept)
            rows = self._scan()
            if not rows.count:
                return False
            record = self._checked(kept)
            if rows.relative and record.folder != self._record.folder:
                raise UsageError(
                    f"the paths in {self.path} are relative to the folder {record.folder!r}, and this run is in "
                    f"{self._record.folder!r}, so it cannot be resumed here. Run it there, or give another --out file."
                )
        except (UsageError, OSError):
            if unfolded:
                self._forget()
            raise
        record.folder = self._record.folder
        self._record = record
        os.truncate(self._journal, rows.size)
        if self._replaced.exists():
            self._replace()
            rows = self._scan()
        record.runs.append((rows.count, self._started))
        self._keep_record()
        self._rows, self.total, self.failed = rows, rows.count, rows.failed
        return True

    def _checked(self, found: Record | None) -> Record:
        if found is None:
            place = f"{'its metadata or ' if self._parquet else ''}{self._beside.name}"
            raise UsageError(
                f"{self.path} cannot be resumed: there is no {place} to say by which model its rows were made (older "
                "versions did not keep that). Give another --out file, or leave --resume out to replace it."
            )
        if difference := found.difference(self._record):
            raise UsageError(
                f"{self.path} was made {difference}, so it cannot be resumed. Use what it was made with, or give "
                "another --out file."
            )
        return found

    def _scan(self) -> _Rows:
        """The whole rows of the journal."""
        found = _Rows()
        head = self._format.head()
        with self._journal.open("rb") as file:
            start = file.read(len(head))
            if len(start) < len(head):
                return found  # killed within the first line
            if start != head:
                raise UsageError(
                    f"{self.path} has other columns than this run, so it cannot be resumed. "
                    "Use the --top, --embed and --model that it was written with, or give another file."
                )
            found.size = len(head)
            for record in self._format.records(file):
                row = self._format.read(record)
                if row is None:
                    raise UsageError(
                        f"{self.path} holds a line that this command has not written ({record[:60]!r}), so it cannot "
                        "be resumed. Give another file."
                    )
                path, failed = row
                found.numbers.setdefault(text_of_path(path), []).append(~found.count if failed else found.count)
                found.count += 1
                found.failed += failed
                found.size += len(record)
                found.relative |= not (is_url(path) or os.path.isabs(path))  # noqa: PTH117
        return found

    def _read_record(self) -> Record | None:
        try:
            return Record.from_json(self._beside.read_bytes())
        except FileNotFoundError:
            return None

    def _keep_record(self) -> None:
        write_whole(self._beside, self._record.to_json())

    def _forget(self) -> None:
        """Leave nothing of a run that has no row of its own."""
        for path in (self._journal, self._beside):
            path.unlink(missing_ok=True)

    # --- closing --------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Let go of the files, all rows in them and in their places."""
        for lines in (self._lines, self._again):
            if lines is not None:
                # Some file systems say only now that the disk is full.
                with contextlib.closing(lines):
                    lines.sync()
        if self._again is not None:
            self._replace()

    def _replace(self) -> None:
        """Put the rows that were made again where the old ones are. Done twice it changes nothing more."""
        places: dict[int, tuple[int, int]] = {}  # row -> where its new line begins and ends
        made: dict[int, float] = dict(self._record.again)
        with self._replaced.open("rb") as news:
            begin = 0
            for line in news:
                if line.endswith(b"\n"):
                    row, started, _ = json.loads(line)
                    places[row], made[row] = (begin, begin + len(line)), started
                begin += len(line)
            head = self._format.head()
            with replacing(self._journal) as temporary, temporary.open("wb") as new, self._journal.open("rb") as old:
                new.write(old.read(len(head)))
                for number, record in enumerate(self._format.records(old)):
                    if number in places:
                        begin, end = places[number]
                        news.seek(begin)
                        new.write(json.loads(news.read(end - begin))[2].encode("utf-8", "surrogateescape"))
                    else:
                        new.write(record)
        self._record.again = sorted(made.items())
        self._keep_record()
        self._replaced.unlink()

    def _finish_parquet(self) -> None:
        with replacing(self.path, durable=True) as temporary, self._journal.open("rb") as lines:
            write_parquet(temporary, lines, self._format, self._record.to_json())
        self._forget()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """What the system says becomes an `OutputError` that says what is kept and how to go on."""
        try:
            yield
        except OSError as error:
            raise OutputError(self._reason(error)) from error

    def _reason(self, error: OSError) -> str:
        said = (error.strerror or str(error)).lower()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else f"{self.path} cannot be written ({said})"
        cure = _CURES.get(error.errno or 0)
        if self.total:
            return (
                f"{what}: {self._journal} holds the results up to here. {cure or 'Make it writable'} and run the same "
                "command again with --resume."
            )
        if cure is not None:
            return f"{what}{f' for {self.path}' if full else ''}. {cure} and run the same command again."
        return f"{what}. Give another place with --out."


def _here() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - the text alone
    except OSError:
        return ""
