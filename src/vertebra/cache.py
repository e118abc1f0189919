"""The cache: exported networks, the forms that engines convert them to, measurements, features.

The folder (`VERTEBRA_CACHE` names another one) may be deleted at any time. The cache never makes a command fail, nor
changes a result: a file is read only where its checksum is right, a damaged one is reported once and made again, and
what cannot be written is made for one run.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    from _blake2 import blake2b  # what hashlib has; that loads OpenSSL, 3 ms of every start
except ImportError:  # of another Python
    from hashlib import blake2b

from vertebra.errors import InUseError, VertebraError, warn
from vertebra.files import atomic_write, locked

_TIMEOUT = 900.0  # seconds to wait for another process to make something: longer than any export takes
_CHECKSUM = b'{"checksum": "'
_told: set[str] = set()


def cache_dir() -> Path:
    """`$VERTEBRA_CACHE`, or `vertebra` in the folder where this system keeps caches."""
    if folder := os.environ.get("VERTEBRA_CACHE"):
        return Path(folder).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    return Path(home or "~/.cache").expanduser() / "vertebra"


def checksum(*parts: str | bytes) -> bytes:
    """The BLAKE2b of these parts, 16 bytes."""
    found = blake2b(digest_size=16)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.digest()


def warn_once(text: str) -> None:
    """Warn, the first time in this process."""
    if text not in _told:
        _told.add(text)
        warn(text)


def warn_damaged(path: Path) -> None:
    """Warn once that a cached file is damaged."""
    warn_once(f"{path} is damaged. What it held is made again; no result changes.")


@contextlib.contextmanager
def creation_lock(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Around the making of a cached file: one process makes it, others call `waiting`, wait, and look for it again.

    Its folder is made. Where the cache cannot be locked, each process makes its own file, and the last one stays.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, InUseError, RuntimeError):  # the last of Python 3.11, for a circle of links
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path, f"delete {path.parent}", wait=_TIMEOUT, waiting=waiting))
        yield


@functools.cache
def scratch_dir() -> Path:
    """A folder of this process, for what cannot be written to the cache; removed when the process ends."""
    import atexit
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="vertebra-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# --- objects --------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any] | None:
    """The object that `write_json` wrote; None where it is missing or damaged."""
    try:
        if not path.is_file():  # reading a pipe may never end
            return None
        content = path.read_bytes()
    except OSError:
        return None
    size = len(_head(path, b""))
    head, body = content[:size], content[size:]
    if head == _head(path, body):
        value: dict[str, Any] = json.loads(b"{" + body)
        return value
    if not content.startswith(b"{") or content.startswith(_CHECKSUM):  # another version wrote none
        warn_damaged(path)
    return None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object for the next run. A cache that cannot be written costs time, never the result."""
    body = json.dumps(value, indent=1).encode()[1:]
    with contextlib.suppress(OSError), atomic_write(path) as temporary:
        temporary.write_bytes(_head(path, body) + body)


def _head(path: Path, body: bytes) -> bytes:
    """The beginning of the file: the checksum of its name and of the rest."""
    return _CHECKSUM + checksum(path.name, body).hex().encode() + b'",'


# --- files ----------------------------------------------------------------------------------------------------------


def write_sidecar(path: Path, note: dict[str, Any]) -> None:
    """Write, beside a file that has just been made in the cache, a note on it and its SHA-256."""
    with contextlib.suppress(OSError):
        state, digest = _hashed(path)
        write_json(path.with_suffix(".json"), {"note": note, "state": state, "sha256": digest})


def read_sidecar(path: Path, *, thorough: bool = False) -> dict[str, Any] | None:
    """The note of a file in the cache that is as it was made; None where it has to be made (again).

    The file is hashed where its state has changed; if `thorough`, always, as a failing disk changes no state.
    """
    found = read_json(path.with_suffix(".json"))
    if found is None:
        return None
    try:
        if thorough or found["state"] != _state(path.stat()):
            state, digest = _hashed(path)
            if digest != found["sha256"]:
                warn_damaged(path)
                return None
            write_json(path.with_suffix(".json"), {**found, "state": state})
    except FileNotFoundError:
        return None  # deleted, which is allowed
    except OSError:
        warn_damaged(path)
        return None
    note: dict[str, Any] = found["note"]
    return note


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits; cached with the file's path and state, as half a gigabyte takes a second.

    Raises:
        VertebraError: the file cannot be read.
    """
    if known := cached_fingerprint(path):
        return known
    try:
        state, digest = _hashed(path)
    except OSError as error:
        raise VertebraError(f"{path} cannot be read ({error.strerror or error}).") from error
    write_json(_note(path), {"state": state, "sha256": digest})
    return digest


def cached_fingerprint(path: Path) -> str | None:
    """The SHA-256 of a file where it is cached; the file is not read."""
    try:
        known = read_json(_note(path))
        if known is not None and known.get("state") == _state(path.stat()):
            return str(known["sha256"])
    except OSError:
        pass
    return None


def is_verified(path: Path, status: os.stat_result) -> bool:
    """Whether a file in this state has passed the checks of the checksums that it holds."""
    return read_json(_intact(path)) == _state(status)


def record_verified(path: Path, status: os.stat_result, digest: str | None = None) -> None:
    """Note that, with the status from before the file was read, and its SHA-256 where that is known."""
    write_json(_intact(path), _state(status))
    if digest is not None:
        write_json(_note(path), {"state": _state(status), "sha256": digest})


def _intact(path: Path) -> Path:
    return _note(path).parent.with_name("intact") / _note(path).name


def _note(path: Path) -> Path:
    # Not `Path.resolve`, which raises where links lead in a circle.
    name = os.path.realpath(path)
    return cache_dir() / "hashes" / f"{checksum(os.fsencode(name)).hex()}.json"


def _hashed(path: Path) -> tuple[dict[str, int], str]:
    """The state of a file, and the SHA-256 of its content."""
    import hashlib

    state = _state(path.stat())
    if path.exists() and not path.is_file():
        raise OSError("is a folder, a pipe or a device")
    with path.open("rb") as file:
        return state, hashlib.file_digest(file, "sha256").hexdigest()


def file_state(path: Path) -> dict[str, int]:
    """What differs once a file is changed or replaced."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def change_state(path: Path) -> dict[str, int]:
    """As `file_state`, with the time of the last change of any kind.

    `cp -p`, `rsync -a` and archives set the time of modification, and a freed inode is given to the next file.
    """
    return _state(path.stat())


def _state(stat: os.stat_result) -> dict[str, int]:
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino, "ctime_ns": stat.st_ctime_ns}
