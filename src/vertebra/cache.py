"""The cache: exported networks, converted models of engines, measurements, features.

The folder (`VERTEBRA_CACHE` overrides it) may be deleted at any time. The cache never makes a command fail or changes
a result: a file is used only if its checksum matches, a damaged one is reported once and recreated, and in a read-only
cache everything is recomputed.
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
    from _blake2 import blake2b  # hashlib's own, without loading OpenSSL, which takes 3 ms
except ImportError:  # other Python implementations
    from hashlib import blake2b

from vertebra.errors import InUseError, VertebraError, warn
from vertebra.files import atomic_write, locked

_TIMEOUT = 900.0  # seconds to wait for another process: longer than any export takes
_CHECKSUM = b'{"checksum": "'
_warned: set[str] = set()


def cache_dir() -> Path:
    """`$VERTEBRA_CACHE`, or `vertebra` in the system's cache folder."""
    if folder := os.environ.get("VERTEBRA_CACHE"):
        return Path(folder).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    return Path(home or "~/.cache").expanduser() / "vertebra"


def checksum(*parts: str | bytes) -> bytes:
    """The 16-byte BLAKE2b of these parts."""
    found = blake2b(digest_size=16)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.digest()


def warn_once(text: str) -> None:
    """Warn at most once per process and text."""
    if text not in _warned:
        _warned.add(text)
        warn(text)


def warn_damaged(path: Path) -> None:
    """Warn once that a cached file is damaged."""
    warn_once(f"{path} is damaged. What it held is made again; no result changes.")


@contextlib.contextmanager
def creation_lock(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock while creating a cached file; other processes call `waiting`, wait, and then look for it again.

    Creates the folder. If the cache cannot be locked, each process creates the file, and the last one remains.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, InUseError, RuntimeError):  # RuntimeError: cyclic links in Python 3.11
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path, f"delete {path.parent}", wait=_TIMEOUT, waiting=waiting))
        yield


@functools.cache
def scratch_dir() -> Path:
    """A temporary folder for a read-only cache; removed when the process ends."""
    import atexit
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="vertebra-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# --- objects --------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any] | None:
    """Read what `write_json` wrote, or None if it is missing or damaged."""
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
    """Write an object; errors are ignored, since a cache that cannot be written costs only time."""
    body = json.dumps(value, indent=1).encode()[1:]
    with contextlib.suppress(OSError), atomic_write(path) as temporary:
        temporary.write_bytes(_head(path, body) + body)


def _head(path: Path, body: bytes) -> bytes:
    """The head of the file: the checksum of its name and body."""
    return _CHECKSUM + checksum(path.name, body).hex().encode() + b'",'


# --- files ----------------------------------------------------------------------------------------------------------


def write_sidecar(path: Path, note: dict[str, Any]) -> None:
    """Write a sidecar with a note and the SHA-256 beside a file just created in the cache."""
    with contextlib.suppress(OSError):
        state, digest = _hashed(path)
        write_json(path.with_suffix(".json"), {"note": note, "state": state, "sha256": digest})


def read_sidecar(path: Path, *, thorough: bool = False) -> dict[str, Any] | None:
    """The note of an intact cached file; None if the file must be created again.

    The file is hashed if its state has changed; with `thorough`, always, as a failing disk does not change the state.
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
    """The SHA-256 of a file (64 hex digits), cached by path and state: hashing 0.5 GB takes a second.

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
    """The cached SHA-256 of a file, or None; the file is not read."""
    try:
        known = read_json(_note(path))
        if known is not None and known.get("state") == _state(path.stat()):
            return str(known["sha256"])
    except OSError:
        pass
    return None


def is_verified(path: Path, status: os.stat_result) -> bool:
    """Whether a file in this state has passed its own checksums before."""
    return read_json(_intact(path)) == _state(status)


def record_verified(path: Path, status: os.stat_result, digest: str | None = None) -> None:
    """Record that a file passed its checksums; `status` must be from before the file was read."""
    write_json(_intact(path), _state(status))
    if digest is not None:
        write_json(_note(path), {"state": _state(status), "sha256": digest})


def _intact(path: Path) -> Path:
    return _note(path).parent.with_name("intact") / _note(path).name


def _note(path: Path) -> Path:
    # Not `Path.resolve`, which raises for cyclic links.
    name = os.path.realpath(path)
    return cache_dir() / "hashes" / f"{checksum(os.fsencode(name)).hex()}.json"


def _hashed(path: Path) -> tuple[dict[str, int], str]:
    """The state and the SHA-256 of a file."""
    import hashlib

    state = _state(path.stat())
    if path.exists() and not path.is_file():
        raise OSError("is a folder, a pipe or a device")
    with path.open("rb") as file:
        return state, hashlib.file_digest(file, "sha256").hexdigest()


def file_state(path: Path) -> dict[str, int]:
    """Size, modification time and inode, which differ after a change or replacement."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def change_state(path: Path) -> dict[str, int]:
    """As `file_state`, with the ctime.

    `cp -p`, `rsync -a` and archives set the modification time, and a freed inode is reused.
    """
    return _state(path.stat())


def _state(stat: os.stat_result) -> dict[str, int]:
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino, "ctime_ns": stat.st_ctime_ns}
