"""`Location`: a file or folder by its path or URI."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from vertebra.errors import UsageError, require_extra
from vertebra.files import make_folder, write_durably
from vertebra.photo_files import is_system_folder

from .errors import StorageError, storage_error

REMOTE_SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss")


@dataclass(frozen=True)
class FileState:
    """What tells that a file has changed."""

    size: int  # bytes
    version: str  # the ETag where the service has one, else the modification time in ns


@dataclass(frozen=True)
class Entry:
    """A file that was listed."""

    location: Location
    size: int
    mtime_ns: int


@dataclass(frozen=True, order=True)
class Location:
    """A file or folder by its path or URI, such as `photos/1.jpg` or `s3://bucket/photos/1.jpg`.

    It holds the text alone, so that it can be pickled and sent to another machine; the file system is opened when it is
    first used, once a process. Every method raises a `StorageError` that names the place and what to do; it has
    `is_missing`.
    """

    uri: str

    def __post_init__(self) -> None:
        if self.is_remote and "@" in urlsplit(self.uri).netloc:
            scheme = self.uri.partition("://")[0]
            raise UsageError(
                f"the {scheme}:// address has credentials in it, which would be logged. Leave them out and set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )

    def __str__(self) -> str:
        return self.uri

    @property
    def is_remote(self) -> bool:
        """Whether it is not on a file system of this machine."""
        return self.uri.partition("://")[0] in REMOTE_SCHEMES and "://" in self.uri

    @property
    def path(self) -> Path:
        """The path of a local one."""
        return Path(self.uri)

    @property
    def name(self) -> str:
        """The last part."""
        return self.uri.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The suffix of the name in lower case, such as `.tar`."""
        return os.path.splitext(self.name)[1].lower()  # noqa: PTH122 - no path of this system

    def __truediv__(self, name: str) -> Location:
        if not self.is_remote:
            return Location(str(self.path / name))
        return Location(f"{self.uri.rstrip('/')}/{name}")

    # --- reading ---------------------------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """Return the whole content."""
        try:
            if not self.is_remote:
                return self.path.read_bytes()
            system, path = self._remote()
            with system.open_input_stream(path) as stream:
                return bytes(stream.read())
        except Exception as error:
            raise self._error(error, "read") from error

    def open(self) -> IO[bytes]:
        """Open it for reading, with `seek`; a remote file is read in ranges."""
        try:
            if not self.is_remote:
                return self.path.open("rb")
            system, path = self._remote()
            opened: IO[bytes] = system.open_input_file(path)
            return opened
        except Exception as error:
            raise self._error(error, "opened") from error

    def state(self) -> FileState:
        """Return size and version of a file."""
        try:
            if not self.is_remote:
                status = self.path.stat()
                return FileState(status.st_size, str(status.st_mtime_ns))
            system, path = self._remote()
            with system.open_input_stream(path) as stream:
                told = {key.lower(): value for key, value in (stream.metadata() or {}).items()}
            etag = told.get(b"etag", told.get("etag"))
            info = system.get_file_info(path)
            version = etag.decode() if isinstance(etag, bytes) else etag or str(info.mtime_ns)
            return FileState(int(info.size), version.strip('"'))
        except Exception as error:
            raise self._error(error, "read") from error

    def is_folder(self) -> bool:
        """Whether it is a folder, or a prefix of files."""
        return self._kind() == "folder"

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._kind() == "file"

    def _kind(self) -> str | None:
        if not self.is_remote:
            return "folder" if self.path.is_dir() else "file" if self.path.exists() else None
        from pyarrow import fs

        try:
            system, path = self._remote()
            found = system.get_file_info(path).type
        except Exception as error:
            raise self._error(error, "read") from error
        return {fs.FileType.Directory: "folder", fs.FileType.File: "file"}.get(found)

    def list(self) -> Iterator[Entry]:
        """Yield the files in a folder and below it by name, hidden ones left out."""
        if not self.is_remote:
            yield from self._list_local(self.path)
            return
        from pyarrow import fs

        try:
            system, path = self._remote()
            infos = system.get_file_info(fs.FileSelector(path, recursive=True))
        except Exception as error:
            raise self._error(error, "listed") from error
        scheme = self.uri.partition("://")[0]
        for info in sorted(infos, key=lambda info: info.path):
            inside = info.path.removeprefix(path).split("/")
            if info.type == fs.FileType.File and not any(part.startswith(".") for part in inside):
                yield Entry(Location(f"{scheme}://{info.path}"), int(info.size), int(info.mtime_ns or 0))

    def _list_local(self, folder: Path) -> Iterator[Entry]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise self._error(error, "listed") from error
        for entry in entries:
            if entry.name.startswith(".") or is_system_folder(entry.name):
                continue
            if entry.is_dir():
                yield from self._list_local(Path(entry.path))
            elif entry.is_file():
                status = entry.stat()
                yield Entry(Location(entry.path), status.st_size, status.st_mtime_ns)

    # --- writing ---------------------------------------------------------------------------------------------------

    def write(self, content: bytes) -> None:
        """Write the whole file, or leave what was there: a temporary file and a rename, or a single put."""
        try:
            if not self.is_remote:
                make_folder(self.path.parent)
                write_durably(self.path, content)
                return
            system, path = self._remote()
            with system.open_output_stream(path) as stream:
                stream.write(content)
        except Exception as error:
            raise self._error(error, "written") from error

    def delete(self) -> None:
        """Delete the file; one that is not there is no error."""
        try:
            if not self.is_remote:
                self.path.unlink(missing_ok=True)
                return
            system, path = self._remote()
            system.delete_file(path)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._error(error, "deleted") from error

    # --- file systems ----------------------------------------------------------------------------------------------

    def _remote(self) -> tuple[Any, str]:
        """Return pyarrow's file system and the path in it."""
        scheme, _, path = self.uri.partition("://")
        with require_extra("remote", f"{scheme}:// addresses"):
            return _file_system(scheme, path.partition("/")[0]), path.rstrip("/")

    def _error(self, error: Exception, action: str) -> StorageError:
        if isinstance(error, StorageError):
            return error
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] != "pyarrow":
            raise error
        return storage_error(error, self.uri, action)


@functools.cache
def _file_system(scheme: str, authority: str) -> Any:
    """Return the file system of a scheme and a bucket or host, opened once a process."""
    from pyarrow import fs

    if scheme == "s3":
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if region is None and endpoint is None:
            region = fs.resolve_s3_region(authority)
        return fs.S3FileSystem(
            region=region,
            endpoint_override=endpoint,  # Arrow reads the variable in URIs alone
            allow_delayed_open=True,  # a small file is a single put
            connect_timeout=5,
            request_timeout=20,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
        )
    return fs.FileSystem.from_uri(f"{scheme}://{authority}")[0]
