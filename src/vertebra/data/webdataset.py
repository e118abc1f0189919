"""Reads WebDataset shards: tar files with each photo beside a .cls or .json of its label."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from vertebra.sources.photo_place import StoredPhoto
from vertebra.sources.tar_shards import CLS, TarMember, tar_index
from vertebra.storage import Location

from .dataset import DataError, Dataset, Photo
from .folder_tree import examples
from .label_names import Ignored, argument, merge_spellings
from .shard_files import ShardFile, ShardFiles, class_names, find_shards
from .shard_labels import LabelSources, is_number
from .table_splits import parse_split

_READERS = 8  # threads that list shards


def read_webdataset(text: str, *, ignore: Sequence[str] = ()) -> Dataset:
    """Read the photos of the shards in a folder, of a pattern or of one file.

    `ignore` has names of shards and folders, labels, splits, and extensions of images that are no photos (`seg.png`).

    Raises:
        DataError: a photo has no label, or several images share a key.
        StorageError: a shard cannot be read or is damaged.
    """
    ignored = Ignored(ignore)
    is_ignored = functools.cache(ignored.has)  # there are many photos, and few labels and extensions
    shards = find_shards(text, "webdataset", ignored)
    notes = list(shards.notes)
    photos: list[Photo] = []
    first: dict[str, str] = {}  # label -> the first photo with it
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    sources = LabelSources(is_ignored)
    empty = []
    for shard, members in _indices(shards.files):
        if not members:
            empty.append(shard.shown)
        _check_keys(shard, members, is_ignored)
        for member in members:
            place = StoredPhoto(str(shard.location), member.name)
            extension = _extension(member)
            label = sources.label(member)
            split = _split(member, place, shard, is_ignored)
            seen.update(filter(None, (*_sources(member), label, split, extension)))
            asked = next((v for v in (label, split, extension) if v and is_ignored(v)), None)
            if asked is not None:
                left_out[asked] += 1
                continue
            if label is None:
                raise _unlabelled(place)
            sources.compare(member, place)
            first.setdefault(label, str(place))
            photos.append(Photo(place, label, split))
    if empty:
        notes.append(f"Without any photo, and left out: {examples(empty)}.")
    if left_out:
        notes.append(f"Ignored, as asked: {', '.join(f'{name!r} ({count:,})' for name, count in left_out.items())}.")
    named, note = named_labels(first, shards, ignored)
    notes += sources.notes(first, named)
    ignored.check([*seen, *(shard.shown for shard in shards.files)], text)
    return named_dataset(text, shards, photos, first, named, [*notes, *note])


def _indices(shards: Sequence[ShardFile]) -> Iterator[tuple[ShardFile, list[TarMember]]]:
    with ThreadPoolExecutor(_READERS) as pool:
        locations: list[Location] = [shard.location for shard in shards]
        yield from zip(shards, pool.map(tar_index, locations), strict=True)


def _extension(member: TarMember) -> str:
    return member.name[len(member.key) + 1 :]


def _check_keys(shard: ShardFile, members: Sequence[TarMember], is_ignored: Callable[[str], bool]) -> None:
    """Refuse several images of one key, of which only one can be the photo."""
    by_key: dict[str, TarMember] = {}
    for member in members:
        if is_ignored(_extension(member)):
            continue
        other = by_key.setdefault(member.key, member)
        if other is not member:
            raise DataError(
                f"{shard.location}: {other.name} and {member.name} share the key {member.key!r}, so they may be one "
                f"photo and its mask. Leave one out with --ignore {argument(_extension(member))}."
            )


def _sources(member: TarMember) -> Iterator[str]:
    """Yield what --ignore may name beside a photo."""
    for source in member.labels:
        yield from ("cls",) if source == CLS else ("json", source)
    if member.split:
        yield "split"


def _split(member: TarMember, place: StoredPhoto, shard: ShardFile, is_ignored: Callable[[str], bool]) -> str | None:
    """Return the split that a shard's name or the photo's own .json says."""
    text = (member.split or "").strip()
    if not text or is_ignored("split"):
        return shard.split
    if is_ignored(text):
        return text
    found = parse_split(text, f"{place}, in its .json")
    if shard.split not in (None, found):
        raise DataError(
            f"{place}: its .json says the split {found}, and the shard's name {shard.split}. Rename the shard, or "
            "leave the field out with --ignore split."
        )
    return found


def _unlabelled(place: StoredPhoto) -> DataError:
    key = place.member.rpartition(".")[0]
    return DataError(
        f"{place} has no label: beside it there is neither {key}.cls nor {key}.json with a field label, class, cls, "
        f"class_name, category or target ({key}.txt is a caption, and no label). A tar of class folders is unpacked "
        "first (tar xf), and its folder given."
    )


def named_dataset(
    text: str,
    shards: ShardFiles,
    photos: Sequence[Photo],
    first: Mapping[str, str],
    names: Mapping[str, str],
    notes: Sequence[str],
) -> Dataset:
    """Return the data set of photos with labels, whose classes have these `names`.

    `first` has the labels with their first occurrence.
    """
    classes, joined = merge_spellings({names[label]: where for label, where in first.items()}, text)
    found = tuple(Photo(photo.path, classes[names[photo.label]], photo.split) for photo in photos)
    labels = tuple(sorted({photo.label for photo in found}))
    return Dataset(text, found, labels, shards.root, tuple(shards.others), notes=(*joined, *notes))


def named_labels(first: dict[str, str], shards: ShardFiles, ignored: Ignored) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the class of each label, and a note: where labels are numbers, the names beside the shards.

    `first` has the labels with their first occurrence.

    Raises:
        DataError: a label is beyond the names, or several files of names disagree.
    """
    numbers = {label: label for label in first}
    if not first or not all(map(is_number, first)):
        return numbers, ()
    names, source = class_names(shards, ignored)
    if names is None:
        return numbers, ("The labels are numbers, and there is no classes.txt beside the shards that names them.",)
    if beyond := [label for label in first if int(label) >= len(names)]:
        raise DataError(
            f"{first[beyond[0]]}: the label is {beyond[0]}, and {source} names {len(names):,} classes, from 0 to "
            f"{len(names) - 1:,}. Correct one of them."
        )
    return {label: names[int(label)] for label in first}, (f"The labels are numbers of the classes in {source}.",)
