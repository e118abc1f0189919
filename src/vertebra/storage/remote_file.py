"""A remote file, opened for reading: each read is one request for a range, bounded in time and checked for its size."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

from .bounded_calls import Call
from .errors import ShortReadError, StorageError, storage_errors
from .file_state import FileState
from .file_systems import open_file_system, remote_seconds

_BYTES_PER_SECOND = 65_536  # slower than this, a read is given up
_PART = 8_000_000  # bytes of one request for a large file
_PARALLEL = 4  # such requests at once
_UNWRITTEN = os.urandom(16)


class RemoteFile(io.RawIOBase):
    """A remote file with `read`, `seek`, `tell` and its `state`; `read(n)` returns n bytes unless the file ends before.

    One thread at a time may use it. Errors are `StorageError`.
    """

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.name = uri
        self._position = 0
        self._files: list[Any] = []  # pyarrow's, at most as many as requests at once

        def start() -> tuple[Any, FileState]:
            system, path = open_file_system(uri)
            file = system.open_input_file(path)
            told = {_text(key).lower(): _text(value) for key, value in (file.metadata() or {}).items()}
            version = told.get("etag", "").strip('"')
            if not version:
                version = str(system.get_file_info(path).mtime_ns)
            return file, FileState(int(file.size()), version)

        with storage_errors(uri, "read"):
            file, self.state = Call(start, remote_seconds()).result()
        self._files.append(file)

    def _start_read(self, offset: int, size: int) -> Call[bytes]:
        """Start to read exactly `size` bytes from `offset`, which are in the file."""

        def read() -> bytes:
            if not size:
                return b""
            try:
                file = self._files.pop()
            except IndexError:
                system, path = open_file_system(self.name)
                file = system.open_input_file(path)
            content = _read_exactly(file, offset, size)
            self._files.append(file)
            return content

        return Call(read, remote_seconds() + size / _BYTES_PER_SECOND)

    def _result(self, call: Call[bytes]) -> bytes:
        with storage_errors(self.name, "read"):
            return call.result()

    def read_at(self, offset: int, size: int) -> bytes:
        """Read `size` bytes from `offset`; fewer where the file ends before."""
        return self._result(self._start_read(offset, max(0, min(size, self.state.size - offset))))

    def parts(self) -> Iterator[bytes]:
        """Yield the content in parts of 8 MB, of which four are read at once; then check that it is still the same."""
        waiting: list[Call[bytes]] = []
        for offset in range(0, self.state.size, _PART):
            waiting.append(self._start_read(offset, min(_PART, self.state.size - offset)))
            if len(waiting) == _PARALLEL:
                yield self._result(waiting.pop(0))
        while waiting:
            yield self._result(waiting.pop(0))
        if self.state.size > _PART:
            with RemoteFile(self.name) as now:
                if now.state != self.state:
                    raise StorageError(f"{self.name} has changed while it was read. Try again.", is_transient=True)

    # --- io ----------------------------------------------------------------------------------------------------------

    def readable(self) -> bool:
        """It is open for reading."""
        return True

    def seekable(self) -> bool:
        """It has `seek`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; return the number of bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def read(self, size: int | None = -1) -> bytes:
        """Read `size` bytes, or all that is left."""
        if size is None or size < 0:
            return self.readall()
        content = self.read_at(self._position, size)
        self._position += len(content)
        return content

    def readall(self) -> bytes:
        """Read all that is left; a large file by several requests at once."""
        if self._position == 0 and self.state.size > _PART:
            content = b"".join(self.parts())
        else:
            content = self.read_at(self._position, self.state.size)
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.state.size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative position {start + offset}")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position


def _read_exactly(file: Any, offset: int, size: int) -> bytes:
    """Read a range, or raise a `ShortReadError`.

    Of an object that has become shorter, pyarrow 26 returns the announced size, filled up with what was in memory; so
    it is read into a buffer that ends in known random bytes.
    """
    mark = _UNWRITTEN[-min(size, len(_UNWRITTEN)) :]
    buffer = bytearray(size)
    buffer[-len(mark) :] = mark
    file.seek(offset)
    count = file.readinto(buffer)
    if count != size or (len(mark) == len(_UNWRITTEN) and buffer.endswith(mark)):
        raise ShortReadError("fewer bytes came than its size says")
    return bytes(buffer)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
