"""The folder of a run: its files and the order they are written in, who may write, and the errors where that fails.

A file that a run goes on from, or that is its result, is durable before anything is done that needs it: the table of
photos, the settings and `start.json` before the first checkpoint; the classifier, the weights and the report before
`metrics.json`, which says that the run is finished; and that before the checkpoint is removed. So after a kill, a full
disk or a power cut at any moment, `--resume` finds all that it needs, or a finished run.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vertebra.data import ImageInfo, Photo
from vertebra.errors import UsageError, VertebraError
from vertebra.files import locked, make_folder, write_durably
from vertebra.run_files import RUN_METRICS, RUN_MODEL, RUN_SETTINGS, RUN_WEIGHTS
from vertebra.run_files import read_json as read_json
from vertebra.run_files import resume_command as resume_command
from vertebra.strict_json import dumps

MODEL, METRICS, SETTINGS, WEIGHTS = RUN_MODEL, RUN_METRICS, RUN_SETTINGS, RUN_WEIGHTS
REPORT, DATA = "report.html", "data.csv"
START = "start.json"  # what is known before the first step, until the run is finished
CHECKPOINT, LOG = "checkpoint.safetensors", "metrics.jsonl"
LOCK = ".lock"  # of `files.locked`
BEST = "best-{}.safetensors"


class TrainError(VertebraError):
    """A training run cannot go on; says what is kept and where."""


class Stopped(TrainError):  # noqa: N818
    """Ctrl-C, or a signal that asks to end; everything up to the last step is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # 128 and the number of the signal, as a shell has it


@contextlib.contextmanager
def holding(folder: Path, remedy: str) -> Iterator[None]:
    """Inside, no other process trains in that folder. Reading it (evaluate, predict, serve) goes on.

    Where another process does, that is an InUseError, and `remedy` what to do instead of waiting.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, remedy))
        except OSError as error:
            raise not_written(folder, error) from error
        yield


def new_folder(out: Path) -> Path:
    """Make the folder of a run, which must be empty where it exists."""
    if str(out) in ("", "."):
        raise UsageError("the folder of a run is empty, as an unset variable would be. Give --out RUN.")
    try:
        make_folder(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be made ({error.strerror or error}). Give another --out.") from error
    # A run that another process is at is no run to go on with: that is left to `holding`.
    if not (out / SETTINGS).is_file():
        refuse_filled(out)
    return out


def refuse_filled(out: Path) -> None:
    """Refuse a folder with something in it."""
    try:
        filled = any(path.name != LOCK for path in out.iterdir())
    except OSError as error:
        raise UsageError(f"{out} cannot be read ({error.strerror or error}). Give another --out.") from error
    if filled:
        raise UsageError(f"{out} is not empty. Give another --out, or --resume {out} to go on with a run.")


def default_folder(data: str, model: str) -> Path:
    """Make `runs/photos-efficientnet_lite0`, with a number where that is taken."""
    name = Path(os.path.realpath(data)).stem if os.path.exists(data) else data  # noqa: PTH110 - that of `Path` may raise
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-") or "data"
    first = Path("runs") / f"{stem}-{model}"
    number, found = 1, first
    while True:
        try:
            make_folder(found.parent)
            found.mkdir()  # of two runs that begin at once, one gets the next number
            return found
        except FileExistsError:
            number += 1
            found = first.with_name(f"{first.name}-{number}")
        except OSError as error:
            raise UsageError(f"{found} cannot be made ({error.strerror or error}). Give --out RUN.") from error


def remove_temporaries(folder: Path) -> None:
    """Remove what a process that was killed while it wrote has left; of a folder that this process holds."""
    names = (MODEL, REPORT, METRICS, SETTINGS, DATA, WEIGHTS, START, CHECKPOINT, LOG)
    # The last is what safetensors calls a file that is not whole yet.
    for start in (*(f"{Path(name).stem}." for name in names), "best-", "tmp"):
        for left in folder.glob(f".{start}*"):
            with contextlib.suppress(OSError):
                left.unlink()


def remove_progress(folder: Path) -> None:
    """Remove what a finished run needs no more: checkpoint, best weights, what was known at the start."""
    for name in (CHECKPOINT, BEST.format("*"), START):
        for done in folder.glob(name):
            with contextlib.suppress(OSError):  # the run is finished all the same
                done.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file of the run, whole or not at all, so that it survives a power cut."""
    with resumable_write(path):
        write_durably(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """As `write_text`."""
    write_text(path, dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def resumable_write(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Around what writes a file or folder in the run's folder: where it cannot, a TrainError says how to go on.

    `others` is what a library raises where it cannot, beside OSError.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, *others)):
            raise
        raise not_written(path, error, path.parent) from error


def not_written(path: Path, error: Exception, run: Path | None = None) -> TrainError:
    """A file that cannot be written: what is kept, and how to go on with the run; None: the file's folder."""
    folder = path if path.is_dir() else path.parent
    run = run or folder
    reason = getattr(error, "strerror", None) or str(error)
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in reason:  # the latter is safetensors' way to say it
        remedy = "Make room"
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = f"Make {folder} writable"
    elif number == errno.ENOENT:
        remedy = f"Put {folder} back"
    else:
        remedy = "Mend that"
    kept = "What was done before is kept"
    if Path(path).name.startswith(("checkpoint", "best-")):
        kept = "The checkpoint before it is kept" if (folder / CHECKPOINT).exists() else "There is none before it"
    return TrainError(f"{path} cannot be written ({reason}). {kept}. {remedy}, then run: {resume_command(run)}")


def read_rows(folder: Path) -> list[dict[str, str]]:
    """One for each photo: path, label, split, and SHA-256 but in runs of the first versions."""
    path = folder / DATA
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            found = list(csv.DictReader(file))
        for row in found:
            if None in (row["path"], row["label"], row["split"]):
                raise csv.Error("a line is cut off")
    except (OSError, KeyError, csv.Error) as error:
        raise TrainError(f"{path} cannot be read ({error}). Start a new run.") from error
    return found


def read_table(folder: Path) -> dict[str, tuple[list[Path], list[str]]]:
    """Split -> paths and labels, from what `data_table` wrote."""
    found: dict[str, tuple[list[Path], list[str]]] = {}
    for row in read_rows(folder):
        paths, labels = found.setdefault(row["split"], ([], []))
        paths.append(Path(row["path"]))
        labels.append(row["label"])
    return found


def table_digest(folder: Path) -> str:
    """SHA-256 of what decides a run in its table: labels, splits and contents in their order; not where photos are."""
    rows = [[row["label"], row["split"], row.get("sha256")] for row in read_rows(folder)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def data_table(photos: Sequence[Photo], facts: Sequence[ImageInfo], splits: Sequence[str]) -> str:
    """The photos of a run as a table that is itself a data set."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("path", "label", "split", "sha256"))
    for photo, fact, split in zip(photos, facts, splits, strict=True):
        writer.writerow((photo.path.absolute(), photo.label, split, fact.sha256))
    return buffer.getvalue()
