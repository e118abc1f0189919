"""`Source`, `Chunk` and `Record`: what a SOURCE of photos is read as, on this machine and on others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Record:
    """One photo: the bytes of its file, or why they cannot be read."""

    name: str  # path or URI; of a shard's member `shard-000.tar::cat/1.jpg`, of a row without a path `x.parquet::17`
    content: bytes | None = None
    error: str | None = None  # a sentence that names the photo; `content` is None then


class Chunk(Protocol):
    """Some hundred photos that one process reads, predicts and writes as a whole.

    It is pickled, and small however many photos it has: it says where they are, and has none of their names.
    """

    @property
    def name(self) -> str:
        """What people know it by: `photos/ 1,025 to 2,048`, or `s3://bucket/shard-000.tar`."""

    def read(self, threads: int = 8) -> Iterator[Record]:
        """Read its photos in order, several at a time; no more than some dozens are in memory.

        Raises:
            StorageError: the chunk as a whole cannot be read, or has changed since it was listed.
        """


class Source(Protocol):
    """A SOURCE, listed: its photos in a fixed order, in chunks."""

    @property
    def uri(self) -> str:
        """As it was given."""

    @property
    def kind(self) -> str:
        """The kind: `folder`, `table`, `parquet` or `webdataset`."""

    @property
    def digest(self) -> str:
        """SHA-256 of what was listed: names, sizes and versions of files; of a text table, its paths."""

    @property
    def photos(self) -> int | None:
        """How many there are; None: not known before they are read."""

    def __len__(self) -> int:
        """Return the number of chunks."""

    def chunk(self, index: int) -> Chunk:
        """Return a chunk by its number, the same for the same listing."""
