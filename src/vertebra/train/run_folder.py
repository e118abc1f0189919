"""The folder of a run: its files, the order in which they are written, its lock, and write errors.

Each file is durable before the next that depends on it: data.csv, the settings and `start.json` before the first
checkpoint; the classifier, the weights and the report before `metrics.json`, which marks the run as finished; and that
before the checkpoint is removed. So after a kill, a full disk or a power cut at any moment, `--resume` finds all that
it needs, or a finished run.
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
from vertebra.files import disk_is_full, locked, make_folder, write_durably
from vertebra.run_files import RUN_METRICS, RUN_MODEL, RUN_SETTINGS, RUN_WEIGHTS
from vertebra.run_files import read_json as read_json
from vertebra.run_files import resume_command as resume_command
from vertebra.sources.photo_place import PhotoPlace, parse_place
from vertebra.strict_json import dumps

MODEL, METRICS, SETTINGS, WEIGHTS = RUN_MODEL, RUN_METRICS, RUN_SETTINGS, RUN_WEIGHTS
REPORT, DATA = "report.html", "data.csv"
START = "start.json"  # `PreparedTraining`, until the run is finished
CHECKPOINT, LOG = "checkpoint.safetensors", "metrics.jsonl"
LAUNCH = "torchrun.json"  # `LaunchRecord`, if torchrun started the run
RUNS = Path("runs")  # the folder of runs without --out
LOCK = ".lock"  # of `files.locked`
BEST = "best-{}.safetensors"


class TrainError(VertebraError):
    """A training run cannot go on; says what is kept and where."""


class Stopped(TrainError):  # noqa: N818
    """Ctrl-C or SIGTERM stopped the run; everything up to the last step is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # 128 plus the signal's number, as in shells


@contextlib.contextmanager
def locked_run(folder: Path, remedy: str, wait: float = 0.0) -> Iterator[None]:
    """Lock the folder for training; reading it (evaluate, predict, serve) needs no lock.

    An InUseError if another process holds the lock for `wait` seconds; `remedy` is the advice in its message.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, remedy, wait=wait))
        except OSError as error:
            raise write_error(folder, error) from error
        yield


def new_folder(out: Path) -> Path:
    """Create the folder of a run; an existing one must be empty."""
    if str(out) in ("", "."):
        raise UsageError("the folder of a run is empty, as an unset variable would be. Give --out RUN.")
    try:
        make_folder(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be made ({error.strerror or error}). Give another --out.") from error
    # A folder with settings may be locked by another process, which `locked_run` reports.
    if not (out / SETTINGS).is_file():
        require_empty(out)
    return out


def require_empty(out: Path) -> None:
    """Reject a folder that is not empty."""
    try:
        # A process that was killed before it wrote the settings may have left the others.
        filled = any(path.name not in (LOCK, LAUNCH) and not _is_temporary(path.name) for path in out.iterdir())
    except OSError as error:
        raise UsageError(f"{out} cannot be read ({error.strerror or error}). Give another --out.") from error
    if filled:
        raise UsageError(f"{out} is not empty. Give another --out, or --resume {out} to go on with a run.")


def default_folder(data: str, model: str) -> Path:
    """Create `runs/photos-efficientnet_lite0`, with a number appended if it exists."""
    name = Path(os.path.realpath(data)).stem if os.path.exists(data) else data  # noqa: PTH110 - that of `Path` may raise
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-") or "data"
    first = RUNS / f"{stem}-{model}"
    number, found = 1, first
    while True:
        try:
            make_folder(found.parent)
            found.mkdir()  # of two runs that start at once, one gets the next number
            return found
        except FileExistsError:
            number += 1
            found = first.with_name(f"{first.name}-{number}")
        except OSError as error:
            raise UsageError(f"{found} cannot be made ({error.strerror or error}). Give --out RUN.") from error


def remove_temporaries(folder: Path) -> None:
    """Remove temporary files that a killed process left; the folder must be locked."""
    for left in folder.iterdir():
        if _is_temporary(left.name):
            with contextlib.suppress(OSError):
                left.unlink()


def _is_temporary(name: str) -> bool:
    names = (MODEL, REPORT, METRICS, SETTINGS, DATA, WEIGHTS, START, CHECKPOINT, LOG, LAUNCH)
    # safetensors names its temporary files tmp*.
    return name.startswith((*(f".{Path(name).stem}." for name in names), ".best-", ".tmp"))


def remove_training_state(folder: Path) -> None:
    """Remove what a finished run no longer needs: checkpoint, best weights and start.json."""
    for name in (CHECKPOINT, BEST.format("*"), START):
        for done in folder.glob(name):
            with contextlib.suppress(OSError):  # the run is finished anyway
                done.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file of the run atomically and durably."""
    with resumable_write(path):
        write_durably(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON with `write_text`."""
    write_text(path, dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def resumable_write(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Turn an error of writing a file in the run's folder into a TrainError that says how to resume.

    `others` are the library's own exceptions, beside OSError.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, *others)):
            raise
        raise write_error(path, error, path.parent) from error


def write_error(path: Path, error: Exception, run: Path | None = None) -> TrainError:
    """Return the error for a file that cannot be written: what is kept, and how to resume the run."""
    folder = path if path.is_dir() else path.parent
    run = run or folder
    reason = getattr(error, "strerror", None) or str(error)
    number = getattr(error, "errno", None)
    if disk_is_full(error):
        remedy = "Make room"
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = f"Make {folder} writable"
    elif number == errno.ENOENT:
        remedy = f"Put {folder} back"
    else:
        remedy = "Fix that"
    kept = "What was done before is kept"
    if Path(path).name.startswith(("checkpoint", "best-")):
        kept = "The checkpoint before it is kept" if (folder / CHECKPOINT).exists() else "There is none before it"
    return TrainError(f"{path} cannot be written ({reason}). {kept}. {remedy}, then run: {resume_command(run)}")


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Read data.csv: path, label, split and SHA-256 of each photo; runs of the first versions lack the last."""
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


def read_splits(folder: Path) -> dict[str, tuple[list[PhotoPlace], list[str], list[str]]]:
    """Read data.csv: split -> paths, labels and SHA-256, which is empty in runs of the first versions."""
    found: dict[str, tuple[list[PhotoPlace], list[str], list[str]]] = {}
    for row in read_rows(folder):
        paths, labels, digests = found.setdefault(row["split"], ([], [], []))
        paths.append(parse_place(row["path"]))
        labels.append(row["label"])
        digests.append(row.get("sha256") or "")
    return found


def table_digest(folder: Path) -> str:
    """SHA-256 of labels, splits and contents in data.csv, in order; paths may change."""
    rows = [[row["label"], row["split"], row.get("sha256")] for row in read_rows(folder)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def format_data_table(photos: Sequence[Photo], infos: Sequence[ImageInfo], splits: Sequence[str]) -> str:
    """Format data.csv, which is itself a data set."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("path", "label", "split", "sha256"))
    for photo, info, split in zip(photos, infos, splits, strict=True):
        writer.writerow((photo.path.absolute(), photo.label, split, info.sha256))
    return buffer.getvalue()
