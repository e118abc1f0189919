"""Which chunks of a source are made into one part: some at the begin and the end, more between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vertebra.progress import Progress
from vertebra.sources import Chunk, Record, Source, open_source
from vertebra.storage import Location

# Photos of a chunk of a list, of which a part has one or several: so few that the first rows are there a second after
# the actors, and that these end within a second of one another.
CHUNK_PHOTOS = 64
ENDS = 8  # parts of one chunk at either end
LEAST, MOST = 4, 32  # chunks of the others
PARTS = 2_000  # others, from which on they have more chunks, up to `MOST`
ROW_PHOTOS = 1_024  # of a chunk of Parquet with bytes, where reading a few rows costs most of their row group


@dataclass(frozen=True)
class PartPlan:
    """How many chunks each part has."""

    chunks: int
    group: int  # chunks of a part between the ends

    @staticmethod
    def of(chunks: int, is_list: bool) -> PartPlan:
        """Plan for so many chunks; those that are no part of a list are a part each."""
        return PartPlan(chunks, min(MOST, max(LEAST, chunks // PARTS)) if is_list else 1)

    @property
    def _between(self) -> int:
        """Chunks between the ends."""
        return max(0, self.chunks - 2 * ENDS)

    def __len__(self) -> int:
        """Return the number of parts."""
        return min(self.chunks, 2 * ENDS) + -(-self._between // self.group)

    def chunks_of(self, part: int) -> range:
        """Return the numbers of a part's chunks."""
        if not 0 <= part < len(self):
            raise IndexError(f"part {part} of {len(self)}")
        groups = -(-self._between // self.group)
        if part < ENDS or not groups:
            return range(part, part + 1)
        if part >= ENDS + groups:
            number = ENDS + self._between + part - ENDS - groups
            return range(number, number + 1)
        first = ENDS + (part - ENDS) * self.group
        return range(first, min(first + self.group, ENDS + self._between))


@dataclass(frozen=True)
class PartChunk:
    """The chunks of one part, read one after the other."""

    chunks: tuple[Chunk, ...]

    @property
    def name(self) -> str:
        """The first chunk, and how many follow."""
        more = f" and {len(self.chunks) - 1} more" if len(self.chunks) > 1 else ""
        return f"{self.chunks[0].name}{more}"

    def read(self, threads: int = 8) -> Iterator[Record]:
        """Read the photos in order, several at a time."""
        for chunk in self.chunks:
            yield from chunk.read(threads)


@dataclass(frozen=True)
class PartSource:
    """A source in parts. It is pickled once for an actor, which is told the numbers of its parts alone."""

    source: Source
    plan: PartPlan

    def chunk(self, part: int) -> Chunk:
        """Return the photos of a part."""
        return PartChunk(tuple(map(self.source.chunk, self.plan.chunks_of(part))))


def open_for_parts(
    source: Sequence[str], index: Location | None, progress: Progress, path_column: str | None, image_root: str | None
) -> Source:
    """Open a SOURCE as `open_source` does, in chunks of the sizes above; `index` is where its list is kept."""
    return open_source(
        source,
        index=index,
        chunk_photos=CHUNK_PHOTOS,
        chunk_rows=ROW_PHOTOS,
        progress=progress,
        path_column=path_column,
        image_root=image_root,
    )
