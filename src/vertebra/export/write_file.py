"""Where an export may write, and what it says where it cannot."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from vertebra.card import CardError, locate_card, opened
from vertebra.errors import UsageError, VertebraError
from vertebra.files import check_writable, make_folder, write_whole
from vertebra.units import size


class ExportError(VertebraError):
    """A network could not be exported; there is no new file, and an older one of that name is as it was."""


def check_target(path: Path) -> None:
    """Refuse a target that cannot be written, before any work is done.

    Raises:
        UsageError: the name, or what lies there already, is not allowed.
        ExportError: the folder cannot be made or written to.
    """
    if path.suffix.lower() != ".onnx":
        raise UsageError(
            f"the file to write is {str(path)!r}; its name must end in .onnx, for example {path.stem}.onnx"
        )
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Give a file, for example {path / 'model.onnx'}")
    if path.exists() and not (path.is_file() and path.stat().st_size == 0):  # an empty file is nothing to keep
        try:
            with opened(path) as file:
                locate_card(file)
        except CardError as error:
            raise UsageError(f"{path} is there already and is not an ONNX file. Give another name.") from error
    try:
        make_folder(path.parent)
        check_writable(path)
    except OSError as error:
        raise _not_written(path, error) from error


def write_model(path: Path, content: bytes) -> None:
    """Write a model's file whole, or leave what is there as it was.

    Raises:
        ExportError: the disk is full, or the folder cannot be written to.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise _not_written(path, error, len(content)) from error


def _not_written(path: Path, error: OSError, needed: int | None = None) -> ExportError:
    reason, remedy = (error.strerror or str(error)).lower(), "Give another place with --out."
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and needed is not None:
        free = shutil.disk_usage(path.parent).free
        reason = f"the disk is full: {size(needed)} are needed and {size(free)} are free"
        remedy = "Make room, or give another place with --out."
    return ExportError(f"{path} cannot be written ({reason}). {remedy}")
