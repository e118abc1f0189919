"""WebDataset shards: a tar of photos, each beside the files that share its key, such as `0001.jpg` and `0001.cls`."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

from vertebra.cache import cache_dir, checksum, creation_lock, read_json, write_json
from vertebra.photo_files import HEAD_BYTES, SUFFIXES, image_format, is_macos_metadata, is_system_folder
from vertebra.storage import FileState, Location, StorageError
from vertebra.storage.local_cache import local_copy

from .chunks import Record
from .reading import MAX_PHOTO, reading, require_state
from .tar_reader import DamagedTarError, Member, TarReader

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# What is told from a plain name and cannot be read.
OTHER_TARS = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
CLS = ".cls"
LABEL_FIELDS = ("label", "class", "cls", "class_name", "category", "target")  # of a .json
_BUFFER = 4_194_304  # bytes that are read at once: over a network, each is a request
_INDEX_VERSION = 2


@dataclass(frozen=True)
class TarMember:
    """A photo in a shard."""

    name: str  # of the member
    offset: int  # of its bytes in the shard
    size: int
    key: str  # what its sidecars share: the name up to the first dot behind the last slash
    labels: dict[str, str]  # by their sources: CLS for KEY.cls, then the fields of KEY.json, in LABEL_FIELDS' order
    split: str | None  # the field of KEY.json, as written


def is_tar(name: str) -> bool:
    """Whether a file is a shard, by its name."""
    return name.lower().endswith(TAR_SUFFIXES)


def webdataset_key(name: str) -> tuple[str, str]:
    """Split a member's name into its key and its extension: `cat/1.seg.png` → ("cat/1", "seg.png").

    A hidden file has no key: `.1.jpg` → ("", "").
    """
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}{slash}{stem}", extension) if stem else ("", "")


# --- for predictions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TarChunk:
    """The photos of one shard, streamed member by member.

    A damaged shard gives the photos before the damage, and then a record that names it. So does one without photos,
    and a photo that is a link, a sparse file or stands there twice under one name gives a record with an error.
    """

    location: Location
    state: FileState

    @property
    def name(self) -> str:
        """The path or URI of the shard."""
        return str(self.location)

    def read(self, threads: int = 8) -> Iterator[Record]:
        """Yield the photos in the order of the members; a tar is read by one thread.

        Raises:
            StorageError: the shard cannot be read, or has changed since it was listed.
        """
        require_state(self.location, self.state)
        shard, found = self.name, 0
        seen: set[str] = set()
        with reading(self.location), _open_tar(self.location, _BUFFER) as reader:
            try:
                for member in reader:
                    if (record := self._record(reader, member)) is None:
                        continue
                    if record.name in seen:
                        record = Record(
                            record.name, error=f"{record.name} stands in the shard twice; what came first is taken."
                        )
                    seen.add(record.name)
                    found += 1
                    yield record
            except (DamagedTarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
                before = f"The {found:,} photos before are read." if found else "No photo of it is read."
                found += 1
                yield Record(shard, error=f"{shard} {_damage(error)}. {before} Make or copy it anew.")
        if not found:
            what = f"none of its {reader.members:,} members is a photo" if reader.members else "it is empty"
            yield Record(shard, error=f"{shard} has no photo: {what}.")
        require_state(self.location, self.state)  # nothing of a shard that was replaced meanwhile is kept

    def _record(self, reader: TarReader, member: Member) -> Record | None:
        """Return the photo of a member, or None if it is none."""
        if member.kind == "other" or is_hidden(member.name):
            return None
        name = f"{self.location}::{member.name}"
        has_suffix = has_photo_suffix(member.name)
        if member.kind != "file":
            what = f"a link to {member.target}" if member.kind == "link" else "a sparse file"
            option = "--hard-dereference and --dereference" if member.kind == "link" else "no --sparse"
            error = f"{name} is {what}, which is not read. Make the shard anew, with tar's {option}."
            return Record(name, error=error) if has_suffix else None
        if member.size > MAX_PHOTO:
            error = f"{name} has {member.size:,} bytes; a photo of at most {MAX_PHOTO:,} is read."
            return Record(name, error=error) if has_suffix else None
        head = reader.head(HEAD_BYTES)
        if not has_suffix and image_format(head) is None:
            return None
        content = head + reader.content(len(head))
        return Record(name, content) if content else Record(name, error=f"{name} is empty")


def _damage(error: Exception) -> str:
    """Say what is wrong with a tar, behind its name."""
    if isinstance(error, DamagedTarError):
        return str(error)
    if isinstance(error, EOFError):
        return "is cut off: its gzip stream has no end"
    return f"is damaged: it cannot be unpacked as gzip ({error})"


def has_photo_suffix(name: str) -> bool:
    """Whether a name has the suffix of a photo."""
    _, dot, suffix = name.rpartition(".")
    return f"{dot}{suffix}".lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a member is hidden or of a folder that systems make, as such files in a folder are no photos."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return any(part.startswith(".") or is_macos_metadata(part) for part in parts) or any(
        is_system_folder(part) for part in parts[:-1]
    )


@contextlib.contextmanager
def _open_tar(location: Location, buffer: int) -> Iterator[TarReader]:
    """Open a shard; remotely, `buffer` bytes are read at once."""
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(location.open())
        if location.is_remote:
            file = stack.enter_context(io.BufferedReader(file, buffer))
        if location.suffix == ".tar":
            yield TarReader(file)
        else:
            unpacked: Any = stack.enter_context(contextlib.closing(gzip.GzipFile(fileobj=file)))
            yield TarReader(unpacked, seeks=False)


# --- for training -----------------------------------------------------------------------------------------------------


def tar_index(location: Location) -> list[TarMember]:
    """List the photos of a shard by its headers and sidecars; kept in the cache by the shard's version.

    A remote shard is copied to the cache for it: beside photos, its headers alone would be a request for each.

    A photo whose key has neither a .cls nor a .json with a label has no labels.

    Raises:
        StorageError: the shard cannot be read, is damaged, is compressed, has a photo that is a link or stands there
            twice, or has changed meanwhile.
    """
    if location.suffix != ".tar":
        raise StorageError(
            f"{location} is compressed, so that its photos cannot be read in any order. Unpack it: gunzip {location}"
        )
    state = location.state()
    path = cache_dir() / "shards" / f"{checksum(str(location), str(state.size), state.version).hex()}.json"
    if (known := read_json(path)) is not None and known.get("version") == _INDEX_VERSION:
        return [TarMember(*member) for member in known["members"]]
    with reading(location), _open_tar(_copied(location), _BUFFER) as reader:
        try:
            found = _scan(location, reader)
        except DamagedTarError as error:
            raise StorageError(f"{location} {error}. Make or copy it anew.") from error
    require_state(location, state)
    with creation_lock(path):
        write_json(path, {"version": _INDEX_VERSION, "members": [astuple(member) for member in found]})
    return found


def _copied(location: Location) -> Location:
    try:
        return Location(str(local_copy(location)))
    except StorageError as error:
        if not error.is_full:
            raise
        return location  # read once as a whole, in large parts


def _scan(location: Location, reader: TarReader) -> list[TarMember]:
    photos: list[Member] = []
    classes: dict[str, str] = {}
    fields: dict[str, dict[str, str]] = {}
    splits: dict[str, str] = {}
    for member in reader:
        key, extension = webdataset_key(member.name)
        if member.kind == "other" or is_hidden(member.name) or not key:
            continue
        if extension == "cls" and member.kind == "file":
            classes[key] = _text(reader.content(), location, member)
        elif extension == "json" and member.kind == "file":
            value = _json_object(reader.content(), location, member)
            fields[key] = _json_labels(value)
            if isinstance(split := value.get("split"), str):
                splits[key] = split
        elif has_photo_suffix(member.name) or (member.kind == "file" and image_format(reader.head(HEAD_BYTES))):
            if member.kind != "file":
                raise StorageError(f"{location}::{member.name} is a {member.kind}, which is not read. Pack the photo.")
            photos.append(member)
    seen: set[str] = set()
    for member in photos:
        if member.name in seen:
            raise StorageError(f"{location}::{member.name} stands in the shard twice. Make the shard anew.")
        seen.add(member.name)
    keys = [webdataset_key(member.name)[0] for member in photos]
    found = []
    for member, key in zip(photos, keys, strict=True):
        labels = ({CLS: classes[key]} if key in classes else {}) | fields.get(key, {})
        found.append(TarMember(member.name, member.offset, member.size, key, labels, splits.get(key)))
    return found


def _text(content: bytes, location: Location, member: Member) -> str:
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise StorageError(f"{location}::{member.name} is no text in UTF-8.") from None


def _json_object(content: bytes, location: Location, member: Member) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise StorageError(f"{location}::{member.name} is no JSON.") from None
    return value if isinstance(value, dict) else {}


def _json_labels(value: dict[str, Any]) -> dict[str, str]:
    """Return the fields with a label; none if the first of them is something else, such as a list of several."""
    found = {field: value[field] for field in LABEL_FIELDS if value.get(field) is not None}
    usable = {field: str(label) for field, label in found.items() if _is_label(label)}
    return usable if next(iter(found), None) in usable else {}


def _is_label(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)
