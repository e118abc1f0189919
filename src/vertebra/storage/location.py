"""`Location`: a file or folder by its path or URI."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from vertebra.errors import VertebraError
from vertebra.files import atomic_write, make_folder, write_durably

from .bounded_calls import Call
from .errors import StorageError, is_remote_address, storage_errors
from .file_state import FileState
from .file_systems import open_file_system, refuse_credentials, remote_seconds
from .listing import OnSkipped, list_local, list_remote
from .remote_file import RemoteFile

T = TypeVar("T")

_UPLOAD_BYTES_PER_SECOND = 65_536  # slower than this, an upload is given up


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
    first used, once a process (`vertebra.storage.file_systems` says how it is configured). A URI with credentials in it
    is refused when it is made; one of an unknown scheme when it is first used. Every method raises a `StorageError`
    that names the place and what to do; it has `is_missing`, `is_full` and `is_transient`. Ctrl-C interrupts each.
    """

    uri: str

    def __post_init__(self) -> None:
        if self.is_remote:
            refuse_credentials(self.uri)

    def __str__(self) -> str:
        return self.uri

    @property
    def is_remote(self) -> bool:
        """Whether it has a scheme, and so is not a path of this machine."""
        return is_remote_address(self.uri)

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

    @property
    def parent(self) -> Location:
        """The folder that it is in."""
        return Location(self.uri.rpartition("/")[0]) if self.is_remote else Location(str(self.path.parent))

    def __truediv__(self, name: str) -> Location:
        if not self.is_remote:
            return Location(str(self.path / name))
        return Location(f"{self.uri.removesuffix('/')}/{name}")

    # --- reading ---------------------------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """Return the whole content; never a part of it."""
        with self._errors("read"):
            if not self.is_remote:
                return self.path.read_bytes()
            with RemoteFile(self.uri) as file:
                return file.readall()

    def read_range(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`; fewer where the file ends before. For several ranges `open` it once."""
        with self._errors("read"), self.open() as file:
            file.seek(offset)
            return file.read(size)

    def open(self) -> IO[bytes]:
        """Open it for reading, with `seek`; of a remote file each `read` is a request for a range.

        A remote one is a `RemoteFile`, unbuffered; `io.BufferedReader(file, 1 << 20)` reads ahead.
        """
        with self._errors("opened"):
            if not self.is_remote:
                return self.path.open("rb")
            return cast("IO[bytes]", RemoteFile(self.uri))

    def state(self) -> FileState:
        """Return size and version of a file, by one request."""
        with self._errors("read"):
            if not self.is_remote:
                status = self.path.stat()
                return FileState(status.st_size, str(status.st_mtime_ns))
            with RemoteFile(self.uri) as file:
                return file.state

    def entry(self) -> Entry:
        """Return a file as `list` does that of its folder, by one request."""
        with self._errors("read"):
            if not self.is_remote:
                status = self.path.stat()
                return Entry(self, status.st_size, status.st_mtime_ns)
            return self._call(lambda system, path: _remote_entry(self, system.get_file_info(path)))

    def is_folder(self) -> bool:
        """Whether it is a folder, or a prefix of files."""
        return self._kind() == "folder"

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._kind() == "file"

    def _kind(self) -> str | None:
        if not self.is_remote:
            return "folder" if self.path.is_dir() else "file" if self.path.exists() else None
        with self._errors("read"):
            return self._call(_remote_kind)

    def list(self, on_skipped: OnSkipped | None = None) -> Iterator[Entry]:
        """Yield the files in a folder and below it, in a fixed order, hidden ones and what systems make left out.

        Args:
            on_skipped: called with a place and the reason for a link to nothing and a folder that cannot be listed;
                None: the first of these is raised.
        """
        with self._errors("listed"):
            files = list_remote(self.uri, on_skipped) if self.is_remote else list_local(self.path, on_skipped)
            for path, size, time in files:
                yield Entry(Location(path), size, time)

    # --- writing ---------------------------------------------------------------------------------------------------

    def write(self, content: bytes) -> None:
        """Write the whole file, or leave what was there: a temporary file and a rename, or a single upload.

        A local file is durable when this returns. Of a remote one above 10 MB an interrupted upload leaves parts
        that are no object and that the bucket's rule for incomplete multipart uploads removes.
        """
        with self._errors("written"):
            if not self.is_remote:
                make_folder(self.path.parent)
                write_durably(self.path, content)
                return
            self._upload(content, len(content))

    def write_file(self, path: Path) -> None:
        """Write the content of a local file, without holding it in memory; whole or not at all, as `write`."""
        with self._errors("written"):
            if not self.is_remote:
                with atomic_write(self.path, durable=True) as temporary:
                    shutil.copyfile(path, temporary)
                return
            import pyarrow

            with pyarrow.memory_map(str(path)) as source:
                content = source.read_buffer()
                self._upload(content, content.size)

    def _upload(self, content: Any, size: int) -> None:
        def run(system: Any, path: str) -> None:
            # Written by one call: a stream that is closed early would complete a file that is cut off.
            with system.open_output_stream(path) as stream:
                stream.write(content)

        self._call(run, size / _UPLOAD_BYTES_PER_SECOND)

    def delete(self) -> None:
        """Delete the file; one that is not there is no error.

        After the last file of a remote folder pyarrow leaves an empty object for it, `folder/`, which is not listed.
        """
        with self._errors("deleted"), contextlib.suppress(FileNotFoundError):
            if not self.is_remote:
                self.path.unlink(missing_ok=True)
                return
            self._call(lambda system, path: system.delete_file(path))

    # --- file systems ----------------------------------------------------------------------------------------------

    def _call(self, function: Callable[[Any, str], T], more_seconds: float = 0.0) -> T:
        """Call a function with pyarrow's file system and the path in it, bounded in time."""
        return Call(lambda: function(*open_file_system(self.uri)), remote_seconds() + more_seconds).result()

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """Convert what a file system raises in the block to a `StorageError` that names the place."""
        try:
            with storage_errors(self.uri, action):
                yield
        except StorageError as error:
            if error.is_missing:
                raise self._explain_missing(error, action) from None
            raise

    def _explain_missing(self, error: StorageError, action: str) -> StorageError:
        """Say of a remote place whether it is the bucket that is missing, or of the other kind."""
        if not self.is_remote or "no such file" not in str(error):
            return error

        def look(system: Any, path: str) -> tuple[str | None, str | None]:
            bucket = path.partition("/")[0]
            return _remote_kind(system, bucket), _remote_kind(system, path)

        try:
            bucket, kind = self._call(look)
        except (OSError, ValueError, VertebraError):  # what was found out before holds
            return error
        what = f"{self.uri} cannot be {action}"
        if bucket is None:
            return StorageError(
                f"{what}: there is no such bucket. Check its name, region and endpoint.", is_missing=True
            )
        if kind == "folder":
            return StorageError(f"{what}: it is a folder, and a file is needed.")
        if kind == "file":
            return StorageError(f"{what}: it is a file, and a folder is needed.")
        return error


def _remote_entry(location: Location, info: Any) -> Entry:
    from pyarrow import fs

    if info.type != fs.FileType.File:
        raise FileNotFoundError
    return Entry(location, info.size, info.mtime_ns)


def _remote_kind(system: Any, path: str) -> str | None:
    from pyarrow import fs

    found = system.get_file_info(path).type
    return {fs.FileType.Directory: "folder", fs.FileType.File: "file"}.get(found)
