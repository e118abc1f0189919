"""Some files of a source, by which a node tells that it sees the photos that the command has listed."""

from __future__ import annotations

from collections.abc import Sequence

from vertebra.photo_download import is_url
from vertebra.sources import Chunk, Source
from vertebra.sources.listing import ListedChunk
from vertebra.storage import Location, StorageError

CHUNKS = 4  # evenly through the source, so that of several folders each is likely among them

Sample = tuple[tuple[str, int], ...]  # path or URI of a file, and its bytes


def sample_of(source: Source) -> Sample:
    """Return files that this process can read now, of at most `CHUNKS` chunks; plain data that any node unpickles."""
    last = len(source) - 1
    found = {}
    for index in sorted({last * number // max(1, CHUNKS - 1) for number in range(CHUNKS)} if last >= 0 else ()):
        for name in _files(source.chunk(index)):
            try:
                found[name] = Location(name).state().size
            except StorageError:
                continue  # a table may name photos that are missing
            break
    return tuple(found.items())


def _files(chunk: Chunk) -> Sequence[str]:
    """Return the first files of a chunk."""
    if isinstance(chunk, ListedChunk):
        return [photo.name for photo in chunk.listed()[:8] if photo.error is None and not is_url(photo.name)]
    location = getattr(chunk, "location", None)
    return [str(location)] if isinstance(location, Location) else []


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
