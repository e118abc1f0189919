"""Download one file from a server or a mirror: resume an interrupted download, retry, verify the SHA-256.

`weight_files` chooses the source and the name in the cache.
"""

from __future__ import annotations

import contextlib
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
from vertebra.files import disk_is_full
from vertebra.progress import Progress, progress_bar, silent
from vertebra.units import size as in_bytes
from vertebra.web_opener import build_web_opener

MIRROR = "VERTEBRA_WEIGHTS_MIRROR"

TIMEOUT = 30.0  # seconds without a byte
MAX_FAILURES = 3  # requests in a row that bring less than MIN_PROGRESS
MIN_PROGRESS = 1 << 20  # bytes
RETRY_DELAY = 1.0  # seconds before the second try; doubled before the third
CHUNK = 1 << 18  # bytes

_TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}


def matches_hash(sha256: str, expected: str | None) -> bool:
    """Whether a file's SHA-256 begins with the digits that its published name holds; False where it holds none."""
    return expected is not None and sha256.startswith(expected)


def delete_partial(partial: Path) -> None:
    """Delete a partial file and the version file beside it."""
    partial.unlink(missing_ok=True)
    _version_file(partial).unlink(missing_ok=True)


def copy(source: Path, partial: Path, expected: str | None, progress: Progress) -> None:
    """Copy a mirror's file to `partial`; `expected` is the beginning of its SHA-256, None if unknown."""
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
    if expected and not matches_hash(digest.hexdigest(), expected):
        delete_partial(partial)
        raise _hash_error(str(source), expected, digest.hexdigest(), total)


def download(url: str, partial: Path, expected: str | None, progress: Progress) -> None:
    """Download an http(s) URL to `partial`, resuming an interrupted download.

    Raises:
        WeightsError: the download failed, or its hash is not `expected`; the file is then deleted.
    """
    transfer = _Transfer(url, partial, expected, progress)
    try:
        transfer.run()
    finally:
        if not transfer.size:
            delete_partial(partial)
    if expected and not transfer.is_verified():
        delete_partial(partial)
        if transfer.resumed:
            # The parts may be of different versions of the file: download it again from the start.
            transfer.run()
        if not transfer.is_verified():
            delete_partial(partial)
            raise _hash_error(url, expected, transfer.digest.hexdigest(), transfer.size, transfer.content_type)
    _version_file(partial).unlink(missing_ok=True)


def _version_file(partial: Path) -> Path:
    """The file beside a partial one that holds the server's version (ETag or date) of its bytes."""
    return partial.with_name(f"{partial.name}.json")


class _TransientError(Exception):
    """The transfer failed for a reason that may be temporary, so it is tried again."""


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

    def is_verified(self) -> bool:
        return matches_hash(self.digest.hexdigest(), self.expected)

    def run(self) -> None:
        """Request until the file is complete; a `WeightsError` if the server refuses or keeps failing."""
        self._reset()
        with self.partial.open("ab+") as file:
            self._load_partial(file)
            failures = 0
            # The file may be complete before any request, or when a server that announced too many bytes stops.
            while not self.is_verified():
                before = self.size
                try:
                    self._request(file)
                    break
                except _TransientError as reason:
                    if self.is_verified():
                        break
                    failures = 0 if self.size - before >= MIN_PROGRESS else failures + 1
                    if failures >= MAX_FAILURES:
                        kept = f" {in_bytes(self.size)} are kept; the next call resumes there." if self.size else ""
                        raise WeightsError(
                            f"{self.url} could not be downloaded: {reason}, {MAX_FAILURES} times in a row.{kept} "
                            f"Check the connection, or set {MIRROR} to a folder or base URL that holds the file."
                        ) from reason
                    time.sleep(RETRY_DELAY * 2 ** max(failures - 1, 0))
            _sync(file)

    def _load_partial(self, file: IO[bytes]) -> None:
        """Count and hash the bytes that an earlier run left."""
        file.seek(0)
        while chunk := file.read(CHUNK):
            self.size += len(chunk)
            self.digest.update(chunk)
        if self.size and not (self.expected or self._read_version()):
            self._restart(file)  # without hash and version, old and new bytes cannot be checked against each other

    def _restart(self, file: IO[bytes]) -> None:
        file.truncate(0)
        self._reset()

    def _read_version(self) -> str | None:
        """The ETag or modification date of the version that `partial` was downloaded from."""
        try:
            found = json.loads(_version_file(self.partial).read_text(encoding="utf-8"))
            return str(found["version"]) if found["url"] == self.url and found["version"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _request(self, file: IO[bytes]) -> None:
        # `weight_files._source` allows only http and https.
        headers = {"User-Agent": "vertebra", "Accept-Encoding": "identity"}
        request = urllib.request.Request(self.url, headers=headers)  # noqa: S310
        if self.size:
            request.add_header("Range", f"bytes={self.size}-")
            if version := self._read_version():
                request.add_header("If-Range", version)
        try:
            response = build_web_opener(keep_https=True).open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            with error:
                self._handle_http_error(error, file)
                return
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _TransientError(_failure(error)) from error
        with response:
            self._receive(response, file)

    def _handle_http_error(self, error: urllib.error.HTTPError, file: IO[bytes]) -> None:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self.size:
            if error.headers.get("Content-Range", "").rpartition("/")[2] == str(self.size):
                return  # the file was already complete
            self._restart(file)
            raise _TransientError("the server's file is shorter than the partial download") from error
        status = " ".join(f"the server answered {error.code} {error.reason}".split())  # some reasons have many lines
        if error.code in _TRANSIENT_STATUSES:
            raise _TransientError(status) from error
        raise WeightsError(
            f"{self.url} could not be downloaded: {status}. Check that address in a browser, or set {MIRROR} to a "
            "folder or base URL that holds the file."
        ) from error

    def _receive(self, response: Any, file: IO[bytes]) -> None:
        """Append the body, or restart where the server sends the file from its beginning."""
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {self.size}-"):
                self._restart(file)
                raise _TransientError("the server sent a different range than was requested")
            self.resumed = True
        else:
            self._restart(file)
        length = response.headers.get("Content-Length", "")
        total = self.size + int(length) if length.isdecimal() else None
        self.content_type = response.headers.get("Content-Type", "")
        self._write_version(response.headers)
        if total is not None:
            _check_space(self.partial, total - self.size)
        self.progress(self.partial.stem, self.size, total)
        while total is None or self.size < total:
            try:
                # Unlike read(), read1() keeps what has arrived when the connection fails.
                chunk = response.read1(CHUNK if total is None else min(CHUNK, total - self.size))
            except (OSError, http.client.HTTPException) as error:
                raise _TransientError(_failure(error)) from error
            if not chunk:
                break
            file.write(chunk)
            self.digest.update(chunk)
            self.size += len(chunk)
            self.progress(self.partial.stem, self.size, total)
        if total is not None and self.size < total:
            raise _TransientError(f"the server stopped after {self.size:,} of {total:,} bytes")

    def _write_version(self, headers: Any) -> None:
        tag = headers.get("ETag", "")
        # A weak tag allows other bytes, so it cannot validate a range request (RFC 9110, 13.1.5).
        version = headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag
        _version_file(self.partial).write_text(json.dumps({"url": self.url, "version": version}), encoding="utf-8")


def _check_space(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise WeightsError(
            f"{partial.name.removesuffix('.partial')} needs {in_bytes(needed)} more, and '{partial.parent}' has "
            f"{in_bytes(free)} free. Make room, or set TORCH_HOME to a folder on a larger disk."
        )


def disk_error(error: OSError, path: Path) -> WeightsError:
    """The error for a cache file that cannot be written."""
    if disk_is_full(error):
        return WeightsError(
            f"The disk of '{path.parent}' is full, so {path.name} is incomplete. Make room and call again, or set "
            "TORCH_HOME to a folder on a larger disk."
        )
    return WeightsError(
        f"{path.name} cannot be written into the cache folder '{path.parent}': {error.strerror or error}. "
        "Set TORCH_HOME to a folder that you may write to."
    )


def _hash_error(source: str, expected: str, found: str, size: int, content_type: str = "") -> WeightsError:
    kind = f" of type {content_type}" if content_type.startswith("text/") else ""
    return WeightsError(
        f"{source} gave {in_bytes(size)}{kind} with the wrong content: the SHA-256 begins with "
        f"{found[: len(expected)]}, not with {expected}. Nothing was added to the cache. Try again later, or set "
        f"{MIRROR} to a folder or base URL that holds the right file."
    )


def _failure(error: Exception) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return f"the server sent nothing for {TIMEOUT:.0f} s"
    return f"the connection failed ({inner or type(inner).__name__})"


def _sync(file: IO[bytes]) -> None:
    # Before the rename: a crash must not leave an empty file under the final name.
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def download_bar(source: str, path: Path, progress: bool) -> Iterator[Progress]:
    """Yield the progress callback of a download, which takes the bytes so far and in all."""
    if not progress:
        yield silent
        return
    if not sys.stderr.isatty():
        sys.stderr.write(f"Downloading {source} to {path}\n")
    with progress_bar(path.name, in_bytes=True, transient=False) as bar:
        yield bar
