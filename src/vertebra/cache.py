"""What is kept between runs: exported networks, the forms that engines convert them to, measurements, features.

All of it can be made again: the folder may be deleted at any time. `VERTEBRA_CACHE` names another one.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from vertebra.errors import VertebraError
from vertebra.files import replacing


def cache_dir() -> Path:
    """`$VERTEBRA_CACHE`, or `vertebra` in the folder where this system keeps caches."""
    if folder := os.environ.get("VERTEBRA_CACHE"):
        return Path(folder).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    return Path(home or "~/.cache").expanduser() / "vertebra"


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def keep_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object for the next run. A cache that cannot be written costs time, never the result."""
    with contextlib.suppress(OSError), replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits.

    Hashing half a gigabyte takes a second, so it is kept together with the file's place, size and time of change, and
    only taken again where one of these is another.

    Raises:
        VertebraError: the file cannot be read.
    """
    if known := known_fingerprint(path):
        return known
    import hashlib

    try:
        state = file_state(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VertebraError(f"{path} cannot be read ({error.strerror or error}).") from error
    keep_json(_note(path), {"state": state, "sha256": digest})
    return digest


def known_fingerprint(path: Path) -> str | None:
    """The SHA-256 of a file where it has been taken before; never by reading the file."""
    try:
        known = read_json(_note(path))
        if known is not None and known.get("state") == file_state(path):
            return str(known["sha256"])
    except (OSError, KeyError):
        pass
    return None


def known_intact(path: Path, status: os.stat_result) -> bool:
    """Whether a model's file in this state was found to be as it was exported, by its checksum."""
    try:
        known = read_json(_note(path))
    except OSError:
        return False
    # The time of the last change of any kind, too: it is not set back by those who set back the other.
    return known is not None and known.get("state") == _state(status) and known.get("intact") == status.st_ctime_ns


def keep_intact(path: Path, status: os.stat_result, digest: str) -> None:
    """Note that; with the file's SHA-256, which the same reading has given. `status`: as it was before that."""
    keep_json(_note(path), {"state": _state(status), "sha256": digest, "intact": status.st_ctime_ns})


def _note(path: Path) -> Path:
    import hashlib

    return cache_dir() / "hashes" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"


def file_state(path: Path) -> dict[str, int]:
    """What tells a file from another that takes its place, or from itself after a change."""
    return _state(path.stat())


def _state(status: os.stat_result) -> dict[str, int]:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
