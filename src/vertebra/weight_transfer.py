"""Download of one file from a server or a mirror: resumed where it broke off, its SHA-256 verified.

`weight_files` decides what is downloaded from where.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vertebra.errors import WeightsError
from vertebra.progress import Progress, progress_bar, silent
from vertebra.units import size as in_bytes
from vertebra.web_opener import web_opener

MIRROR = "VERTEBRA_WEIGHTS_MIRROR"

TIMEOUT = 30.0  # seconds without a byte
TRIES = 3  # in a row that bring less than PROGRESS
PROGRESS = 1 << 20  # bytes
PAUSE = 1.0  # seconds before the second try; doubled before the third
CHUNK = 1 << 18  # bytes

# Status codes of errors that may be temporary.
_PASSING = {408, 425, 429, 500, 502, 503, 504}


def forget(partial: Path) -> None:
    """Delete a partial file and its notes."""
    partial.unlink(missing_ok=True)
    _notes(partial).unlink(missing_ok=True)


def copy(source: Path, partial: Path, expected: str | None, progress: Progress) -> None:
    """Copy a mirror's file into `partial`; `expected` are the first digits of its SHA-256, None where unknown."""
    digest = hashlib.sha256()
    try:
        original = source.open("rb")
    except OSError as error:
        raise WeightsError(f"'{source}', the mirror's file, cannot be read: {error.strerror or error}.") from error
    with original, partial.open("wb") as file:
        total = os.fstat(original.fileno()).st_size
        _check_space(partial, total)
        while chunk := original.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            progress(partial.stem, file.tell(), total)
        _sync(file)
    if expected and not digest.hexdigest().startswith(expected):
        forget(partial)
        raise _wrong_hash(str(source), expected, digest.hexdigest(), total)


def download(url: str, partial: Path, expected: str | None, progress: Progress) -> None:
    """Download an http(s) URL to `partial`, from where an earlier call broke off.

    Raises:
        WeightsError: it cannot be downloaded, or has another hash, and is then deleted.
    """
    transfer = _Transfer(url, partial, expected, progress)
    try:
        transfer.run()
    finally:
        if not transfer.size:
            forget(partial)
    if expected and not transfer.matches():
        forget(partial)
        if transfer.resumed:
            # The parts may come from different versions of the file: once more, from the start.
            transfer.run()
        if not transfer.matches():
            forget(partial)
            raise _wrong_hash(url, expected, transfer.digest.hexdigest(), transfer.size, transfer.content_type)
    _notes(partial).unlink(missing_ok=True)


def _notes(partial: Path) -> Path:
    """The file beside a partial one that says of which version on the server it is the beginning."""
    return partial.with_name(f"{partial.name}.json")


class _BrokenOffError(Exception):
    """The transfer broke off for a reason that may be temporary."""


class _Transfer:
    """The download of one file to `partial`."""

    def __init__(self, url: str, partial: Path, expected: str | None, progress: Progress) -> None:
        self.url = url
        self.partial = partial
        self.expected = expected
        self.progress = progress
        self.content_type = ""
        self._reset()

    def _reset(self) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self.resumed = False

    def matches(self) -> bool:
        return self.expected is not None and self.digest.hexdigest().startswith(self.expected)

    def run(self) -> None:
        """Try until the file is whole; a `WeightsError` where the server refuses, or breaks off again and again."""
        self._reset()
        with self.partial.open("ab+") as file:
            self._resume(file)
            failures = 0
            # Whole it may be before any request, and also where a server that promises too much breaks off.
            while not self.matches():
                before = self.size
                try:
                    self._try(file)
                    break
                except _BrokenOffError as reason:
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

    def _resume(self, file: IO[bytes]) -> None:
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
        """The ETag or time of the version that `partial` is the beginning of."""
        try:
            notes = json.loads(_notes(self.partial).read_text(encoding="utf-8"))
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
            response = web_opener(keep_https=True).open(request, timeout=TIMEOUT)
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
        status = " ".join(f"the server answered {error.code} {error.reason}".split())  # some reasons have many lines
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
        self.content_type = response.headers.get("Content-Type", "")
        self._note(response.headers)
        if total is not None:
            _check_space(self.partial, total - self.size)
        self.progress(self.partial.stem, self.size, total)
        while total is None or self.size < total:
            try:
                # Unlike read(), read1() does not lose what it has when the rest does not come.
                chunk = response.read1(CHUNK if total is None else min(CHUNK, total - self.size))
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenOffError(_reason(error)) from error
            if not chunk:
                break
            file.write(chunk)
            self.digest.update(chunk)
            self.size += len(chunk)
            self.progress(self.partial.stem, self.size, total)
        if total is not None and self.size < total:
            raise _BrokenOffError(f"the server broke off after {self.size:,} of {total:,} bytes")

    def _note(self, headers: Any) -> None:
        tag = headers.get("ETag", "")
        # A weak tag allows other bytes, so it cannot vouch for a beginning (RFC 9110, 13.1.5).
        version = headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag
        _notes(self.partial).write_text(json.dumps({"url": self.url, "version": version}), encoding="utf-8")


# --- disk and screen -------------------------------------------------------------------------------------------------


def _check_space(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise WeightsError(
            f"{partial.name.removesuffix('.partial')} needs {in_bytes(needed)} more, and '{partial.parent}' has "
            f"{in_bytes(free)} free. Make room, or set TORCH_HOME to a folder on a larger disk."
        )


def disk_error(error: OSError, path: Path) -> WeightsError:
    """The error for a file of the cache that cannot be written."""
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


@contextlib.contextmanager
def shown(source: str, path: Path, progress: bool) -> Iterator[Progress]:
    """Around a download: yields what to call with the bytes that have come, and those in all."""
    if not progress:
        yield silent
        return
    if not sys.stderr.isatty():
        sys.stderr.write(f"Downloading {source} to {path}\n")
    with progress_bar(path.name, in_bytes=True, transient=False) as bar:
        yield bar
