"""Results into a .csv, .jsonl or .parquet file; an interrupted run can be resumed.

CSV and JSON lines are appended as results arrive; an incomplete last line of a killed process is cut off on resume. A
Parquet file is complete or absent; until then its results are JSON lines in `NAME.parquet.partial`. A finished file is
synced to disk, and a second run on the same file is rejected.

The `RunRecord` is in the metadata of a Parquet file, and in `NAME.meta.json` beside others. The row of a photo that is
tried again is replaced in place: `NAME.again` holds new rows until this run ends or the next one begins.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from vertebra.errors import UsageError, VertebraError
from vertebra.files import AppendOnlyFile, atomic_write, disk_is_full, locked, make_folder, write_durably

from .formats import Csv, JsonLines, text_of_path
from .parquet_format import need_pyarrow, parquet_lines, parquet_record, write_parquet
from .photo import Photo
from .prediction import Prediction
from .resumed_rows import (
    ExistingRows,
    PhotoTimes,
    is_replacement_line,
    replace_rows,
    replacement_line,
    scan_rows,
)
from .run_record import RunRecord, current_folder, describe_engine_change, is_record, require_same_run

SUFFIXES = (".csv", ".jsonl", ".parquet")


class ResultError(VertebraError):
    """Results cannot be written; what was written before is whole and can be resumed."""


class ResultFile:
    """A file that results are written to, used as `with ResultFile(path, …) as results:`.

    Args:
        path: its suffix says the format.
        model: how people know the model, for messages.
        sha256: of the model's file.
        top: how many classes a photo gets, which is how many columns a table has for them.
        embed: whether there is a column for embeddings.
        options: others that decide what a row says, by their names on the command line.
        engine: as `--engine` has it; a run that is resumed with another has an `engine_note`.
        unsure: whether there is a column for "none of the classes".
        resume: keep what an earlier run has written, and leave those photos out whose rows have no error and which have
            not been changed since.

    Raises:
        UsageError: the suffix is not known, what is there is no file of results, or was made with another model or
            other options.
        MissingExtraError: a package for the format is not installed.
        InUseError: another process writes to it.
        ResultError: the file cannot be written.
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
        engine: str = "auto",
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
        self._journal = path.with_name(f"{path.name}.partial") if self._parquet else path  # results are appended to it
        self._record_path = path.with_name(f"{path.name}.meta.json")
        self._replacements_path = path.with_name(f"{path.name}.again")
        self._started = time.time()
        rows_depend_on = {"--top": top, "--embed": embed, **(options or {})}
        self._record = RunRecord(model, sha256, rows_depend_on, current_folder(), engine)
        self._rows = ExistingRows()
        self._waiting: defaultdict[str, deque[int]] = defaultdict(deque)  # rows that the next results of a path replace
        self._again: AppendOnlyFile | None = None
        self.done = 0  # photos that earlier runs have written, those that failed included
        self.total = 0  # photos in the file, and those of them that failed
        self.failed = 0
        self.again = 0  # photos of earlier runs that were tried again
        self.replaced = 0  # rows of an earlier run that this one does without
        self.engine_note: str | None = None  # on a run that is resumed with another engine
        self.absent = 0  # photos of earlier runs that are not given this time; known once `remaining` has ended
        with self._convert_os_errors(), contextlib.ExitStack() as opening:
            make_folder(path.parent)
            opening.enter_context(locked(path, "give another file with --out"))
            self._reject_foreign_files()
            if not (resume and self._resume()):
                self._start_empty()
            self._lines = AppendOnlyFile(self._journal)
            self._lock = opening.pop_all()

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._lock:
            try:
                with self._convert_os_errors():
                    self._close()
                    if kind is None and self._parquet:
                        self._finish_parquet()
                    elif kind is not None and issubclass(kind, ResultError) and not self.total:
                        self._delete_journal()
            except ResultError:
                # What is left to do, the next run does; where this one ended badly, what ended it has to be known.
                if kind is None:
                    raise

    def remaining(self, photos: Iterable[Photo]) -> Iterator[Photo]:
        """Yield photos that have no row, failed, or changed; a photo that is given twice has two rows."""
        left, times = dict(self._rows.numbers), PhotoTimes()
        for photo in photos:
            key = text_of_path(photo.path)
            rows = left.get(key)
            if not rows:
                yield photo
                continue
            row, left[key] = rows[0], rows[1:]
            if row < 0 or times.has_changed_since(photo.path, self._record.written_at(row)):
                self._waiting[key].append(row)
                yield photo
        self.absent = sum(map(len, left.values()))

    def write(self, result: Prediction) -> None:
        """Append a result or replace its old row; a `ResultError` if that fails."""
        path, line, failed = text_of_path(result.path), self._format.line(result), result.error is not None
        with self._convert_os_errors():
            if waiting := self._waiting.get(path):
                row = waiting[0]
                if self._again is None:
                    self._again = AppendOnlyFile(self._replacements_path)
                self._again.append(replacement_line(max(row, ~row), self._started, line))
                waiting.popleft()
                self.again += 1
                self.failed += failed - (row < 0)
            else:
                self._lines.append(line)
                self.total += 1
                self.failed += failed

    # --- opening --------------------------------------------------------------------------------------------------

    def _reject_foreign_files(self) -> None:
        """Reject files that this command has not written, whether they would be resumed, replaced or deleted."""
        self._reject_foreign_file(self.path, None if self._parquet else self._format.is_first_line)
        if self._parquet:
            self._reject_foreign_file(self._journal, self._format.is_first_line)
        self._reject_foreign_file(self._record_path, is_record)
        self._reject_foreign_file(self._replacements_path, is_replacement_line)

    def _reject_foreign_file(self, path: Path, is_own: Callable[[bytes], bool] | None) -> None:
        """Reject a file whose first line `is_own` denies; None: a Parquet file."""
        if not path.exists():
            return
        if path.is_fifo():  # opening it would wait for a reader
            raise UsageError(f"{path} is a pipe, which cannot be resumed. Give a file.")
        if is_own is None:
            parquet_record(path)
            return
        with path.open("rb") as file:
            line = file.readline()
        if not is_own(line):
            cure = ". Give" if path == self.path else f", and {self.path} needs its name. Move it, or give"
            raise UsageError(f"{path} is not a file that this command has written{cure} another file.")

    def _start_empty(self) -> None:
        # Opened before the old content goes, so that a file that cannot be written is not emptied.
        with self._journal.open("ab"):
            pass
        self.replaced = self._count_earlier_rows()
        self._replacements_path.unlink(missing_ok=True)
        try:
            self._journal.write_bytes(b"")
            # Before the first row, so that no row is ever without it.
            self._record.runs = [(0, self._started)]
            write_durably(self._record_path, self._record.to_json())
            self._journal.write_bytes(self._format.head)
        except OSError:
            self._delete_journal()
            raise

    def _count_earlier_rows(self) -> int:
        """Count the complete rows of an earlier run, whatever their columns."""
        with self._journal.open("rb") as file:
            rows = max(0, sum(1 for _ in self._format.records(file)) - bool(self._format.head))
        return max(rows, parquet_record(self.path)[0]) if self._parquet and self.path.exists() else rows

    def _resume(self) -> bool:
        """Continue after the rows of earlier runs; False if there are none. An incomplete last line is cut off."""
        unfolded = False
        if not self._journal.exists():
            if not (self._parquet and self.path.exists()):
                return False
            # A finished run: its rows are the beginning of this one.
            count, content = parquet_record(self.path)
            if not count:
                return False
            record = self._require_same_run(RunRecord.from_json(content))
            unfolded = True
        try:
            if unfolded:
                write_durably(self._record_path, record.to_json())
                with atomic_write(self._journal) as temporary, temporary.open("wb") as file:
                    file.writelines(parquet_lines(self.path))
            kept = RunRecord.from_json(self._record_path.read_bytes()) if self._record_path.exists() else None
            if kept is not None and self._journal.stat().st_size:
                self._require_same_run(kept)
            rows = scan_rows(self.path, self._journal, self._format)
            if not rows.count:
                return False
            record = self._require_same_run(kept)
            if rows.relative and record.folder != self._record.folder:
                raise UsageError(
                    f"the paths in {self.path} are relative to the folder {record.folder!r}, and this run is in "
                    f"{self._record.folder!r}, so it cannot be resumed here. Run it there, or give another --out file."
                )
        except (UsageError, OSError):
            if unfolded:
                self._delete_journal()
            raise
        self.engine_note = describe_engine_change(self.path, record.engine, self._record.engine)
        record.folder = self._record.folder
        self._record = record
        os.truncate(self._journal, rows.size)
        if self._replacements_path.exists():
            self._apply_replacements()
            rows = scan_rows(self.path, self._journal, self._format)
        record.runs.append((rows.count, self._started))
        write_durably(self._record_path, self._record.to_json())
        self._rows, self.done, self.total, self.failed = rows, rows.count, rows.count, rows.failed
        return True

    def _require_same_run(self, found: RunRecord | None) -> RunRecord:
        """Return the record of the existing rows; a `UsageError` if this run must not add to them."""
        place = f"{'its metadata or ' if self._parquet else ''}{self._record_path.name}"
        return require_same_run(found, self._record, self.path, place)

    def _delete_journal(self) -> None:
        """Delete the journal and its record."""
        for path in (self._journal, self._record_path):
            path.unlink(missing_ok=True)

    # --- closing --------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Sync and close the files, and apply replacements."""
        for lines in (self._lines, self._again):
            if lines is not None:
                # Some file systems say only now that the disk is full.
                with contextlib.closing(lines):
                    lines.sync()
        if self._again is not None:
            self._apply_replacements()

    def _apply_replacements(self) -> None:
        made = replace_rows(self._journal, self._replacements_path, self._format)
        self._record.again = sorted((dict(self._record.again) | made).items())
        write_durably(self._record_path, self._record.to_json())
        self._replacements_path.unlink()

    def _finish_parquet(self) -> None:
        with atomic_write(self.path, durable=True) as temporary, self._journal.open("rb") as lines:
            write_parquet(temporary, map(json.loads, lines), self._format, self._record.to_json())
        self._delete_journal()

    @contextlib.contextmanager
    def _convert_os_errors(self) -> Iterator[None]:
        """Convert an `OSError` to a `ResultError` that says what is saved and how to resume."""
        try:
            yield
        except OSError as error:
            raise ResultError(self._error_message(error)) from error

    def _error_message(self, error: OSError) -> str:
        said = (error.strerror or str(error)).lower()
        full = disk_is_full(error)
        what = "the disk is full" if full else f"{self.path} cannot be written ({said})"
        cure = "Make room" if full else "Allow larger files" if error.errno == errno.EFBIG else None
        if self.total:
            return (
                f"{what}: {self._journal} holds the results up to here. {cure or 'Make it writable'} and run the same "
                "command again with --resume."
            )
        if cure is not None:
            return f"{what}{f' for {self.path}' if full else ''}. {cure} and run the same command again."
        return f"{what}. Give another place with --out."
