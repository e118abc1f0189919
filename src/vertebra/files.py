"""Write files atomically, durably and under a lock. No other module writes files; a test checks that.

- `write_durably`, or `atomic_write(path, durable=True)` where a library writes: results and checkpoints. They survive a
  power failure: the file is synced before it is renamed, and its folder afterwards.
- `atomic_write`: caches. Readers never see a partial file; a power failure may lose it.
- `AppendOnlyFile`: results that grow line by line.
- `locked`: at most one process at a time for a path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vertebra.errors import InUseError, VertebraError, warn

# Distinguish a path to a weight file from a name; its content decides what the file is.
WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".tar")

# Errors of file systems without locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_NO_WRITING = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


# --- writing ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside `path`, which replaces `path` (or its link target) if the block succeeds.

    Missing folders are created. With `durable`, a power failure leaves either the old file or the new one.

    Raises:
        OSError: the disk is full, or the folder is not writable; `path` is unchanged.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        make_folder(path.parent)
    temporary = _new_beside(path)
    try:
        rights = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != rights:  # safetensors replaces the file by one that only its owner can read
            temporary.chmod(stat.S_IMODE(rights))
        if durable:
            _sync(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # an earlier error is the one to report
            temporary.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def _new_beside(path: Path) -> Path:
    """Create an empty file `.STEM.0123456789ab.SUFFIX`."""
    # STEM is cut, since names have a maximum length. Not `mkstemp`, whose files only their owner can read.
    temporary = path.with_name(f".{path.stem[:32]}.{os.urandom(6).hex()}{path.suffix[:16]}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def write_durably(path: Path, content: bytes) -> None:
    """Write a file as `atomic_write(path, durable=True)` does; raise an `OSError` if the disk is full."""
    require_space(path, len(content))
    with atomic_write(path, durable=True) as temporary:
        temporary.write_bytes(content)


def require_space(path: Path, needed: int) -> None:
    """Raise an `OSError` that `disk_is_full` recognises unless `needed` bytes are free in the folder of `path`."""
    import shutil

    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def disk_is_full(error: BaseException) -> bool:
    """Whether a write failed because the disk is full or a quota is used up."""
    # safetensors raises an error of its own, without `errno`.
    return getattr(error, "errno", None) in _NO_SPACE or "os error 28" in str(error)


@contextlib.contextmanager
def wrap_write_errors(path: Path, kind: type[VertebraError] = VertebraError) -> Iterator[None]:
    """Convert an `OSError` in the block, which writes `path`, to a `VertebraError` of that kind."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path} cannot be written ({error.strerror or error}). Give another place.") from error


def check_writable(path: Path) -> None:
    """Raise an `OSError` if a file cannot be created in its folder."""
    _new_beside(path).unlink()


def make_folder(folder: Path) -> None:
    """Create a folder and its parents durably, or raise an `OSError`."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to disk, if the system supports it."""
    with contextlib.suppress(PermissionError):  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):
                raise
        finally:
            os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)  # Windows syncs only writable files
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AppendOnlyFile:
    """A file to which lines are appended, each completely or not at all."""

    def __init__(self, path: Path) -> None:
        # Unbuffered, so that a killed process loses nothing.
        self.file: Any = path.open("ab", buffering=0)
        self.size = self.file.tell()

    def append(self, line: bytes) -> None:
        """Append a line, or raise an `OSError` and leave the file unchanged."""
        rest = memoryview(line)
        try:
            # On a nearly full disk, only a part may be written, without an error.
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.file.fileno(), self.size)
            raise
        self.size += len(line)

    def sync(self) -> None:
        """Sync the file to disk."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


# --- reading ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def utf8_name(path: Path) -> Iterator[Path]:
    """Yield a path to the same file or folder that is valid UTF-8, as safetensors and TensorBoard require.

    Only Linux has other names, and there an open file has a second path.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield Path("/proc/self/fd", str(descriptor))
        finally:
            os.close(descriptor)
    else:
        yield path


# --- one process at a time --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(
    path: Path,
    remedy: str,
    *,
    wait: float | None = 0.0,
    waiting: Callable[[], None] = lambda: None,
    warns: bool = True,
) -> Iterator[bool]:
    """Hold an exclusive lock on `path` between processes; yields False if it could not be locked.

    Uses the system's lock on a hidden file: `.lock` in a folder, `.NAME.lock` beside a file, for any spelling of the
    path. The lock ends with the process and is not inherited by forks. The hidden file is removed at the end; if a
    killed process leaves it behind, it locks nothing.

    In a read-only folder there is no lock, and the write itself fails. On a file system without locks (such as some
    network file systems), the block runs without one, with a `VertebraWarning`.

    Args:
        path: an existing folder, or a file.
        remedy: ends the error's sentence "Wait until that has ended, or …": `"give another --out"`.
        wait: timeout in seconds; None: no timeout.
        waiting: called once before it waits.
        warns: whether to warn if the file system has no locks.

    Raises:
        InUseError: another process or thread still holds the lock after `wait` seconds.
        OSError: the lock file cannot be created: its folder is missing, or the disk is full.
    """
    from filelock import FileLock, Timeout  # takes 30 ms, and a prediction does not need it

    file = lock_file(path)
    if not file.parent.is_dir():  # filelock would create it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file.parent))
    # Without filelock's fallback, whose files remain locked after their process was killed.
    lock = FileLock(file, thread_local=False, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if wait == 0:
                raise
            waiting()
            lock.acquire(timeout=-1 if wait is None else wait)
    except Timeout as error:
        raise InUseError(
            f"{path} is being written by another process. Wait until that has ended, or {remedy}."
        ) from error
    except (OSError, NotImplementedError) as error:
        number = getattr(error, "errno", None) or errno.ENOSYS
        if number not in _NO_LOCKS | _NO_WRITING:
            raise
        if warns and (number in _NO_LOCKS or file.exists() or os.access(file.parent, os.W_OK)):
            warn(
                f"{file} cannot be locked ({getattr(error, 'strerror', None) or error}), so nothing keeps another "
                f"process from writing to {path} at the same time. Start no second one."
            )
        yield False
        return
    try:
        yield True
    finally:
        # Before the release: a waiting process then sees that it is gone, and creates a new one.
        with contextlib.suppress(OSError):  # Windows cannot remove open files
            file.unlink()
        lock.release()


def lock_file(path: Path) -> Path:
    """The hidden file that `locked` locks."""
    resolved = Path(os.path.realpath(path))  # `resolve` fails for a link to itself
    if os.path.isdir(resolved):  # noqa: PTH112 - `Path.is_dir` fails for a long name
        return resolved / ".lock"
    name = resolved.name
    if len(os.fsencode(name)) > 240:  # file systems allow 255
        import hashlib

        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return resolved.with_name(f".{name}.lock")
