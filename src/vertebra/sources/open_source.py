"""`open_source`: a SOURCE by its text: what kind it is, and its photos in chunks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain

from vertebra.errors import DataError, UsageError, require_positive_int, warn
from vertebra.missing_photos import explain_missing
from vertebra.photo_download import is_url
from vertebra.progress import Progress, silent
from vertebra.storage import Location, StorageError

from .chunks import Source
from .container_files import open_parquet_files, open_shards
from .listing import Listed, ListingWriter
from .path_table import list_text_table
from .patterns import expand
from .photo_folder import FolderContents, listed_file
from .table_file import TABLE_SUFFIXES
from .tar_shards import OTHER_TARS, is_tar

CHUNK_PHOTOS = 1024
_SHOWN = 1000  # photos between two calls of progress
_KINDS = {
    "folder": "a folder of photos",
    "photo": "a photo",
    "table": "a table",
    "parquet": "a Parquet file",
    "webdataset": "a shard",
}


def open_source(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    index: Location | None = None,
    chunk_photos: int = CHUNK_PHOTOS,
    chunk_rows: int | None = None,
    path_column: str | None = None,
    image_root: str | None = None,
    progress: Progress = silent,
) -> Source:
    """Open photos by the million, on this machine or in what `Location` opens.

    Args:
        source: one text, or several of one kind: a folder or prefix, photos, web addresses; a table of paths (.csv,
            .tsv, .tab, .txt, .parquet); Parquet with the bytes of photos; WebDataset shards (.tar, .tar.gz, .tgz);
            or a folder of Parquet files or shards. `{000..099}`, `{a,b}`, `*`, `?`, `[…]` and `**` are expanded.
        index: a folder that every process reads, in which the list of a folder or a text table is kept; None: one of
            this machine, which goes with this process. Parquet files and shards need none.
        chunk_photos: photos of a chunk; a shard is one chunk, however many it has.
        chunk_rows: the same of Parquet with the bytes of photos; None: `chunk_photos`.
        path_column: the table's column with the paths, or the Parquet file's with the bytes; None: found by its name,
            or by its type.
        image_root: the folder that relative paths of a table are looked up in; None: the table's own.
        progress: called as photos are found.

    Raises:
        UsageError: it has several kinds, a pattern matches nothing, or a column is not clear.
        DataError: there is no photo, or a table cannot be read.
        StorageError: it cannot be listed or read.
    """
    require_positive_int("chunk_photos", chunk_photos)
    rows = chunk_photos if chunk_rows is None else require_positive_int("chunk_rows", chunk_rows)
    texts = [os.fsdecode(part) for part in ([source] if isinstance(source, str | os.PathLike) else source)]
    if not texts or not all(texts):
        raise UsageError("there is no source. Give a folder, a table, Parquet files or shards.")
    uri = texts[0] if len(texts) == 1 else f"{texts[0]} and {len(texts) - 1:,} more"
    places = [place for text in texts for place in ([text] if is_url(text) else expand(text))]
    _require_distinct(places)
    kinds = [_kind(place) for place in places]
    for kind, place in zip(kinds, places, strict=True):
        if kind != kinds[0] and {kind, kinds[0]} != {"folder", "photo"}:
            raise UsageError(
                f"{places[0]} is {_KINDS[kinds[0]]}, and {place} is {_KINDS[kind]}. Give sources of one kind."
            )
    found = [place for place in places if isinstance(place, Location)]
    if kinds[0] in ("photo", "webdataset"):
        _require_no_table_options(uri, path_column, image_root)
    if kinds[0] == "webdataset":
        return open_shards(uri, found, progress)
    if kinds[0] == "parquet":
        return open_parquet_files(uri, found, chunk_photos, rows, path_column, image_root, progress)
    writer = ListingWriter(index, chunk_photos)
    if kinds[0] == "table":
        for table in found:
            for note in list_text_table(table, writer, path_column, image_root):
                warn(note)
            progress("listing", writer.photos)
        return writer.finish(uri, "table")
    folders = [FolderContents(place) for place in found if place.is_folder()]
    by_place = {contents.folder: contents for contents in folders}
    for photo in chain.from_iterable(_photos(place, by_place) for place in places):
        if not writer.photos:
            _require_no_table_options(uri, path_column, image_root)
        writer.add(photo)
        if writer.photos % _SHOWN == 0:
            progress("listing", writer.photos)
    for contents in folders:
        contents.leave_out_results()
    if writer.photos:
        for contents in folders:
            contents.tell()
            if contents.photo is None:
                warn(contents.missing())
        return writer.finish(uri, "folder")
    shards = [shard for contents in folders for shard in contents.shards]
    parquet = [file for contents in folders for file in contents.parquet]
    for contents in folders:
        contents.tell()
    if shards:
        _require_no_table_options(uri, path_column, image_root)
        return open_shards(uri, shards, progress)
    if parquet:
        return open_parquet_files(uri, parquet, chunk_photos, rows, path_column, image_root, progress)
    raise DataError(folders[0].missing())


def _photos(place: Location | str, folders: dict[Location, FolderContents]) -> Iterator[Listed]:
    if isinstance(place, str):
        yield Listed(place)
    elif place in folders:
        yield from folders[place].photos()
    elif place.is_remote:
        state = place.state()
        yield Listed(str(place), state.size, state.version)
    else:
        yield listed_file(str(place))


def _kind(place: Location | str) -> str:
    """Return the kind of one source; a `StorageError` if it is missing."""
    if isinstance(place, str):
        return "photo"
    if str(place) == "-":
        raise UsageError("standard input is no source that other machines read. Write the list into a .csv file.")
    if place.is_folder():
        return "folder"
    if not place.is_file():
        if place.is_remote:
            place.state()  # its error says whether the bucket is missing
        raise StorageError(_sentence(explain_missing(str(place))), is_missing=True)
    if is_tar(place.name):
        return "webdataset"
    if place.name.lower().endswith(OTHER_TARS):
        raise UsageError(f"{place}: of tar archives, .tar, .tar.gz and .tgz are read. Pack it anew.")
    if place.suffix == ".parquet":
        return "parquet"
    return "table" if place.suffix in TABLE_SUFFIXES else "photo"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _require_no_table_options(uri: str, path_column: str | None, image_root: str | None) -> None:
    """Raise a `UsageError` if what is said of a table is said of photos or shards, where it would change nothing."""
    for name, value in (("--path-column", path_column), ("--image-root", image_root)):
        if value is not None:
            raise UsageError(f"{name} is for tables and Parquet files, and {uri} is none. Leave it out.")


def _require_distinct(places: Sequence[Location | str]) -> None:
    """Raise a `UsageError` if a source is given twice, or lies in another: its photos would be there twice."""
    seen: dict[str, str] = {}
    for place in places:
        is_path = isinstance(place, Location) and not place.is_remote
        text = os.path.realpath(str(place)) if is_path else str(place).rstrip("/")
        if text in seen:
            raise UsageError(f"{place} is given twice. Give each source once.")
        seen[text] = str(place)
    if len(seen) > 1:
        for text, place in seen.items():
            above = text
            while "/" in (above := above.rpartition("/")[0]):
                if above in seen:
                    raise UsageError(f"{place} lies in {seen[above]}, so that its photos would be there twice.")
