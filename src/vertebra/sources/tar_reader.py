"""Reads the members of a tar archive one by one, also from a stream that cannot seek.

Python's `tarfile` ends without a word at a damaged header and at the first end mark, and so loses what comes behind
them; here the one is an error, and what follows the other is read.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

BLOCK = 512
MAX_EXTENSION = 16_000_000  # bytes of a header's extension: names, times, attributes
_SKIPPED = 1_048_576  # bytes that are read at once where a stream cannot seek
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_EMPTY = (*_LINKS, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)  # whatever size is said
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class DamagedTarError(Exception):
    """The archive cannot be read on; the message is the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Member:
    """One member of an archive."""

    name: str
    offset: int  # of its content in the archive
    size: int  # bytes of its content
    kind: str  # "file", "link", "sparse" or "other" (folders, devices)
    target: str = ""  # where a link leads


class TarReader:
    """Iterates over the members of an archive; `content` reads that of the member that came last.

    Raises:
        DamagedTarError: while iterating or reading, with what is wrong and where.
        OSError: what the file itself raises.
    """

    def __init__(self, file: IO[bytes], seeks: bool = True) -> None:
        self._file = file
        self._seeks = seeks
        self._at = 0  # bytes read of the archive
        self._size = 0
        if self._seeks:
            self._size = file.seek(0, 2)
            file.seek(0)
        self._header_at = 0  # where the last header begins
        self._end = 0  # of the present member, padding included
        self._member = Member("", 0, 0, "other")
        self.members = 0

    def __iter__(self) -> Iterator[Member]:
        extension = _Extension()
        ends_with_mark = False
        while True:
            self._skip_to(self._end)
            self._header_at = self._at
            header = self._read(BLOCK)
            if not header:
                break
            if len(header) < BLOCK and header.count(0) < len(header):
                raise DamagedTarError(f"is cut off within a header{self._where()}")
            ends_with_mark = header.count(0) == len(header)
            if ends_with_mark:  # archives that were joined go on behind it
                self._end = self._at
                continue
            try:
                found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise DamagedTarError(f"is damaged: there is no header{self._where()} ({error})") from error
            if found.size < 0:
                raise DamagedTarError(f"is damaged: a size below zero stands in the header{self._where()}")
            self._end = _padded(self._at + found.size)
            if found.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, *tarfile.GNU_TYPES[:2], tarfile.XGLTYPE):
                if found.size > MAX_EXTENSION:
                    raise DamagedTarError(f"is damaged: a header of {found.size:,} bytes stands{self._where()}")
                extension.add(found.type, self._read_all(found.size), self._where())
                continue
            if found.type == tarfile.GNUTYPE_SPARSE:
                self._skip_sparse_map(header)
            member = extension.applied(found, self._at)
            extension = _Extension(extension.pax_for_all)
            self._end = _padded(member.offset + member.size)
            self._member = member
            self.members += 1
            yield member
        if extension.is_open:
            raise DamagedTarError(f"is cut off before the member that its last header names{self._where()}")
        if not self._at:
            raise DamagedTarError("is empty (0 bytes)")
        if not ends_with_mark:
            raise DamagedTarError(f"has no end mark{self._where()}: it may be cut off there")

    def content(self, start: int = 0) -> bytes:
        """Return the content of the member that came last, from a byte that has not been read yet."""
        return self._read_all(self._member.size - start)

    def head(self, size: int) -> bytes:
        """Return the first bytes of the member that came last; `content` goes on behind them."""
        return self._read_all(min(size, self._member.size))

    def _skip_sparse_map(self, header: bytes) -> None:
        """Skip the blocks in which the holes of a sparse member go on; its content follows them."""
        more = header[482]
        while more:
            more = self._read_all(BLOCK)[504]

    def _read(self, size: int) -> bytes:
        """Read that many bytes, or fewer at the end of the archive."""
        parts, left = [], size
        while left and (part := self._file.read(left)):
            parts.append(part)
            left -= len(part)
        self._at += size - left
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_all(self, size: int) -> bytes:
        content = self._read(size)
        if len(content) < size:
            raise self._cut()
        return content

    def _skip_to(self, end: int) -> None:
        if self._seeks and end > self._at:
            if end > self._size and self._member.offset + self._member.size > self._size:
                raise self._cut()
            self._at = self._file.seek(min(end, self._size))
        while self._at < end:
            if not self._read(min(_SKIPPED, end - self._at)):
                if self._at < self._member.offset + self._member.size:
                    raise self._cut()
                return  # of the last member's padding; the mark is missing as well, which is told

    def _cut(self) -> DamagedTarError:
        at = self._size or self._at
        return DamagedTarError(f"is cut off at byte {at:,}, within {self._member.name or 'its first header'}")

    def _where(self) -> str:
        behind = f", behind {self._member.name}" if self.members else ""
        return f" at byte {self._header_at:,}{behind}"


class _Extension:
    """What headers before a member's own say of it: long names, and what pax adds."""

    def __init__(self, pax_for_all: dict[str, str] | None = None) -> None:
        self.pax_for_all = dict(pax_for_all or {})
        self._pax: dict[str, str] = {}
        self._gnu: dict[bytes, str] = {}

    @property
    def is_open(self) -> bool:
        """Whether there is something for a member that has not come yet."""
        return bool(self._pax or self._gnu)

    def add(self, kind: bytes, content: bytes, where: str) -> None:
        """Take in one of these headers."""
        if kind in tarfile.GNU_TYPES:
            self._gnu[kind] = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        elif kind == tarfile.XGLTYPE:
            self.pax_for_all |= _pax_records(content, where)
        else:
            self._pax |= _pax_records(content, where)

    def applied(self, header: tarfile.TarInfo, offset: int) -> Member:
        """Return the member of a header, whose content begins at `offset`."""
        pax = self.pax_for_all | self._pax
        name = pax.get("path") or self._gnu.get(tarfile.GNUTYPE_LONGNAME) or header.name
        target = pax.get("linkpath") or self._gnu.get(tarfile.GNUTYPE_LONGLINK) or header.linkname
        size = int(pax["size"]) if pax.get("size", "").isdecimal() else header.size
        kind = "file" if header.type in _FILES else "link" if header.type in _LINKS else "other"
        if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in pax):
            kind, name = "sparse", pax.get("GNU.sparse.name") or name
        # As tar does: behind these headers there is no content, whatever size they say.
        is_empty = kind == "link" or header.type in (
            tarfile.DIRTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
            tarfile.FIFOTYPE,
        )
        return Member(name, offset, 0 if is_empty else size, kind, target if kind == "link" else "")


def _padded(end: int) -> int:
    return -(-end // BLOCK) * BLOCK


def _pax_records(content: bytes, where: str) -> dict[str, str]:
    """Parse `LENGTH KEY=VALUE` lines."""
    found, at = {}, 0
    while at < len(content) and content[at]:
        length, _, _ = content[at : at + 20].partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1 or at + int(length) > len(content):
            raise DamagedTarError(f"is damaged: the header of a long name cannot be read{where}")
        key, _, value = content[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at += int(length)
    return found
