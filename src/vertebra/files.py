"""The one place where files are written: whole or not at all, durable where they are results, by one process at a time.

Three ways, and no module writes otherwise (a test reads the source):

- `write_whole`, and `replacing(path, durable=True)` where a library writes: results and checkpoints. Once the call has
  returned, the file survives a power cut: its bytes are synced before it is renamed, its folder after that.
- `replacing`: caches, which can be made again. Another process never reads half a file; a power cut may lose it.
- `Lines`: results that grow line by line.

`locked` is around what two processes may not do to the same path at once.
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

# Of weight files, to tell a path from a name. What a file is, its content decides.
WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".tar")

# Errors of file systems without locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_NO_WRITING = {errno.EACCES, errno.EPERM, errno.EROFS}


# --- writing ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A new, empty file beside `path`, which replaces `path` (or what it links to) once the block has ended well.

    Missing folders are made. `durable`: at any moment of a power cut there is the old file or the new one.

    Raises:
        OSError: the disk is full, or the folder cannot be written to; `path` is as it was.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        make_folder(path.parent)
    temporary = _new_beside(path)
    try:
        rights = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != rights:  # safetensors puts a file of its own there, for its owner alone
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
    """An empty file `.STEM.0123456789ab.SUFFIX`."""
    # STEM is cut, as the name may be as long as names can be. Not `mkstemp`, whose files only their owner can read.
    temporary = path.with_name(f".{path.stem[:32]}.{os.urandom(6).hex()}{path.suffix[:16]}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as `replacing(path, durable=True)` does; an `OSError` where the disk is full or not writable."""
    import shutil

    if shutil.disk_usage(path.parent).free < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    with replacing(path, durable=True) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def writing(path: Path, kind: type[VertebraError] = VertebraError) -> Iterator[None]:
    """Around what writes a file that the user has named: where it cannot be written, a `VertebraError` of that kind."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path} cannot be written ({error.strerror or error}). Give another place.") from error


def check_writable(path: Path) -> None:
    """Raise an `OSError` where a file cannot be made in its folder."""
    _new_beside(path).unlink()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they survive a power cut; an `OSError` where that is not possible."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut, where the system supports it."""
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
    descriptor = os.open(path, os.O_RDWR)  # Windows syncs only what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lines:
    """A file that lines are appended to, each of them whole or not at all."""

    def __init__(self, path: Path) -> None:
        # Unbuffered, so that a killed process loses nothing.
        self.file: Any = path.open("ab", buffering=0)
        self.size = self.file.tell()

    def append(self, line: bytes) -> None:
        """Raise an `OSError` where the line cannot be written; the file is then as it was."""
        rest = memoryview(line)
        try:
            # A disk that is nearly full takes a part, and only the number of bytes says so.
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.file.fileno(), self.size)
            raise
        self.size += len(line)

    def sync(self) -> None:
        """Make what has been appended survive a power cut."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


# --- reading ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def utf8_name(path: Path) -> Iterator[Path]:
    """A path, or another one to the same file or folder, for libraries that take only names in UTF-8.

    Such are safetensors' reader and TensorBoard. Only Linux has other names, and an open file has a second path there.
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
    """Inside, no other process is inside for the same path; yields whether there is such a lock.

    The system's lock on a hidden file: `.lock` in a folder, `.NAME.lock` beside a file, for any spelling of the path.
    It ends with the process, and forked processes do not hold it. The hidden file is removed when the block ends; one
    that a killed process has left locks nothing.

    Where nothing can be written there is no lock, and the writing itself fails. Where the file system has no locks
    (some network file systems), the work goes on without one, and a `VertebraWarning` says so.

    Args:
        path: an existing folder, or a file.
        remedy: what to do where it is locked, after "Wait until that has ended, or ": `"give another --out"`.
        wait: seconds for the other process to end; None: without limit.
        waiting: called once where it has to wait.
        warns: False where two at once do no harm.

    Raises:
        InUseError: another process (or thread) is inside, and has not left in that time.
        OSError: the lock's file cannot be made: its folder is missing, or the disk is full.
    """
    from filelock import FileLock, Timeout  # 30 ms, of which a mere prediction needs none

    file = lock_file(path)
    if not file.parent.is_dir():  # filelock would make it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file.parent))
    # Not its fallback for file systems without locks: its files still lock after their process was killed.
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
        # Before the release: a process that waits for this file finds it removed, and makes a new one.
        with contextlib.suppress(OSError):  # Windows removes no open file
            file.unlink()
        lock.release()


def lock_file(path: Path) -> Path:
    """The hidden file that `locked` locks."""
    resolved = Path(os.path.realpath(path))  # `resolve` fails where a link leads to itself
    if os.path.isdir(resolved):  # noqa: PTH112 - and this one of `Path` where a name is too long
        return resolved / ".lock"
    name = resolved.name
    if len(os.fsencode(name)) > 240:  # of 255 that file systems allow
        import hashlib

        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return resolved.with_name(f".{name}.lock")
