"""Some files of a source, by which a node tells that it sees the photos that the command has listed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vertebra.photo_download import is_url
from vertebra.prefetch import in_order
from vertebra.sources import Chunk, Source
from vertebra.sources.container_files import ParquetSource, ShardSource
from vertebra.sources.folder_sample import MOST, FolderSample
from vertebra.sources.listing import ListedChunk, ListedSource
from vertebra.sources.path_table import PathChunk
from vertebra.storage import Location, StorageError

CHUNKS = 4  # of a list, evenly through it: what is known of its folders may be a photo that is missing
_TRIED = 8  # photos of each

Sample = tuple[tuple[str, int], ...]  # path or URI of a file, and its bytes


def sample_of(source: Source) -> Sample:
    """Return files that this process can read now, of each folder or of `MOST`; plain data that any node unpickles."""
    found = {}
    for some in _candidates(source):
        for name in some:
            try:
                found[name] = Location(name).state().size
            except StorageError:
                continue  # a table may name photos that are missing
            break
    return tuple(found.items())


def _candidates(source: Source) -> Iterator[Sequence[str]]:
    """Yield some files again and again, of which one is enough."""
    if isinstance(source, ShardSource):
        yield from _singly(str(shard) for shard, _ in source.shards)
    elif isinstance(source, ParquetSource):
        yield from _singly(str(file.location) for file in source.files)
        if source.kind == "table":
            yield from _singly(name for names in _listed(source, MOST) for name in names)
    elif isinstance(source, ListedSource):
        yield from _singly(name for name in source.sample if not is_url(name))
        yield from (names[:_TRIED] for names in _listed(source, CHUNKS))


def _singly(names: Iterable[str]) -> Iterator[Sequence[str]]:
    """Yield a file of each folder."""
    return ([name] for name in FolderSample(names).files())


def _listed(source: Source, count: int) -> Iterator[Sequence[str]]:
    """Yield the photos of chunks of a list that are no web addresses, evenly through it."""
    last = len(source) - 1
    chunks = sorted({last * number // max(1, count - 1) for number in range(count)})
    return in_order(chunks, lambda some: [_photos(source.chunk(index)) for index in some], workers=8, chunk=1)


def _photos(chunk: Chunk) -> Sequence[str]:
    photos = chunk.listed() if isinstance(chunk, ListedChunk | PathChunk) else []
    return [photo.name for photo in photos if photo.error is None and not is_url(photo.name)]


def unseen(sample: Sample) -> str:
    """Return why this process does not see the first file that differs, with what to do; "" if it sees all."""
    for name, size in sample:
        try:
            here = Location(name).state().size
        except StorageError as error:
            if not error.is_missing:
                return f"{str(error).rstrip('.')}, and the command can read it. Give this node the same access."
            return f"it does not see {name}. {_REMEDY}"
        if here != size:
            return f"{name} has {here:,} bytes there, and {size:,} where the command runs. {_REMEDY}"
    return ""


_REMEDY = "Put the photos where every node finds them under the same path, such as a shared folder or s3://."
