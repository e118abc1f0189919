"""Torch's checkpoint files: a small pickled program beside blocks of numbers, which are mapped or copied.

The program is run by `pickle_reader`, which can make tensors and nothing else. `torch.load` refuses the objects that it
passes by, and checks less: nothing of a file is read into memory here before the sizes that it names have been held
against its own, as a record that is compressed, or that lies over another, can be a thousand times as large as its
file; and the CRC of each record is checked, as one changed bit of a weight would load without a word otherwise.

The formats are those of torch/serialization.py: zip (torch ≥ 1.6), and the older one, where blocks follow the program.
Published files of both kinds are in use; torchvision's VGG weights are of the older. bench/loading.py has the times
beside `torch.load`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vertebra.cache import keep_intact, known_intact

from .pickle_reader import run
from .stored_tensors import Storage, StoredTensors, UnreadableError

_MAGIC = 0x1950A86A20F9469CFC6C  # first in the older format
_VERSION = 1001
_WORTH_NOTING = 1 << 22  # bytes of a file; a smaller one is checked sooner than a note of it is found
_ALIGNMENT = 64  # bytes, as torch's allocator gives
_PIECE = 1 << 24  # bytes that a reader takes at once
_CRC_PIECE = 1 << 20  # bytes of which a CRC is taken at once, while they are in the processor's cache
_READERS = 2  # threads; memory is the limit, not the processor


class _Record(NamedTuple):
    """A file in a zip archive, as it lies there."""

    name: str
    at: int
    size: int
    crc: int


def read(path: Path, mapped: bool = True) -> Any:
    """The object in a checkpoint, with its tensors on the CPU and copy-on-write.

    Blocks are mapped, unless that is not wanted; those of the older format, which stand at any address, are copied.
    Either way they begin at multiples of 64 bytes, as torch's own do; at others, kernels add in another order.

    Raises:
        UnreadableError: it holds something that no network here can take.
        Exception: it is damaged, which shows in any way.
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if content[:4] == b"PK\x03\x04":
        return _read_zip(path, content, mapped)
    return _read_older(path, content)


# --- the two formats -------------------------------------------------------------------------------------------------


def _read_zip(path: Path, content: mmap.mmap, mapped: bool) -> Any:
    records = _records(path, content)
    if "byteorder" in records and _content(content, records["byteorder"]) != sys.byteorder.encode():
        raise UnreadableError("was saved on a machine with another order of bytes")
    _check(path, records.values())
    program = _content(content, records["data.pkl"])

    places: dict[str, tuple[int, int]] = {}
    for name, record in records.items():
        folder, _, key = name.partition("/")
        if folder == "data":
            places[key] = record.at, record.size
    if not mapped:
        content, places = _copied(path, places)

    def block(storage: Storage) -> Tensor:
        at, size = places[storage.key]
        if size < storage.nbytes:
            raise UnreadableError
        return _view(content, at, storage)

    return run(program, 0, StoredTensors(block))[0]


def _content(content: mmap.mmap, record: _Record) -> bytes:
    return content[record.at : record.at + record.size]


def _records(path: Path, content: mmap.mmap) -> dict[str, _Record]:
    """What lies in an archive, by its name below the archive's own folder, and where; sizes and places are checked.

    Raises:
        UnreadableError: it is an archive of something else, or one that torch never writes.
        ValueError: the places are not sound.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    # Every name begins with a folder, called like the file that was saved.
    names = [entry.filename.partition("/")[2] for entry in entries]
    if "constants.pkl" in names:
        raise UnreadableError("is a TorchScript program, not a state dict")
    if "data.pkl" not in names:
        inside = ", ".join(repr(entry.filename[:60]) for entry in entries[:3])
        raise UnreadableError(
            f"is a zip archive with {inside}, not torch's", "Unpack it, and name the weight file in it."
        )
    if any(entry.compress_type or entry.compress_size != entry.file_size for entry in entries):
        raise UnreadableError("is a compressed archive, which torch.save never writes")
    if len(set(names)) != len(names):
        raise ValueError("two records have the same name")

    records, end = {}, 0
    for entry, name in sorted(zip(entries, names, strict=True), key=lambda pair: pair[0].header_offset):
        # The local header may have other extra fields than the directory's: torch pads with them.
        signature, named, extra = struct.unpack_from("<4s22xHH", content, entry.header_offset)
        at = entry.header_offset + 30 + named + extra
        if signature != b"PK\x03\x04" or entry.header_offset < end:
            raise ValueError(f"the record {name[:60]!r} lies over another")
        end = at + entry.file_size
        if end > len(content):
            raise ValueError(f"the record {name[:60]!r} reaches beyond the end")
        records[name] = _Record(name, at, entry.file_size, entry.CRC)
    return records


def _check(path: Path, records: Iterable[_Record]) -> None:
    """Hold the records of an archive against their CRCs, once for each state of the file: see `cache.known_intact`.

    Raises:
        ValueError: one is damaged.
    """
    found = sorted(records, key=lambda record: -record.size)
    if not any(record.crc for record in found):
        return  # saved under torch.serialization.set_crc32_options(False), which writes zeros: it cannot be known

    status = path.stat()
    noted = status.st_size >= _WORTH_NOTING
    if noted and known_intact(path, status):
        return

    def check(record: _Record) -> None:
        value = 0
        # By reading, not from the mapping: its pages would be counted as this process's memory.
        with path.open("rb", buffering=0) as file:
            file.seek(record.at)
            for start in range(0, record.size, _CRC_PIECE):
                value = zlib.crc32(file.read(min(_CRC_PIECE, record.size - start)), value)
        if value != record.crc:
            raise ValueError(f"the record {record.name[:60]!r} does not have the CRC-32 that it was saved with")

    with ThreadPoolExecutor(_READERS) as readers:
        list(readers.map(check, found))
    if noted:
        keep_intact(path, status)


def _read_older(path: Path, content: mmap.mmap) -> Any:
    magic, at = run(content, 0)
    version, at = run(content, at)
    system, at = run(content, at)
    if magic != _MAGIC or version != _VERSION or system["little_endian"] != (sys.byteorder == "little"):
        raise UnreadableError

    # Where the blocks are is told behind the program, so a first run just collects their sizes.
    storages: dict[str, Storage] = {}

    def collect(storage: Storage) -> Tensor:
        storages[storage.key] = storage
        return torch.empty(storage.numel, dtype=storage.dtype, device="meta")

    _, end = run(content, at, StoredTensors(collect))
    keys, stop = run(content, end)
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        # Before each block stands its number of elements.
        if struct.unpack_from("<q", content, stop) != (storages[key].numel,):
            raise UnreadableError
        places[key] = stop + 8, storages[key].nbytes
        stop += 8 + storages[key].nbytes
    if stop > len(content):
        raise UnreadableError

    memory, places = _copied(path, places)
    return run(content, at, StoredTensors(lambda storage: _view(memory, places[storage.key][0], storage)))[0]


def _view(buffer: mmap.mmap, at: int, storage: Storage) -> Tensor:
    if not storage.numel:
        return torch.empty(0, dtype=storage.dtype)
    if at % _ALIGNMENT:  # a zip that another program wrote
        return torch.frombuffer(buffer, dtype=torch.uint8, count=storage.nbytes, offset=at).clone().view(storage.dtype)
    return torch.frombuffer(buffer, dtype=storage.dtype, count=storage.numel, offset=at)


def _copied(path: Path, places: dict[str, tuple[int, int]]) -> tuple[mmap.mmap, dict[str, tuple[int, int]]]:
    """Blocks of a file, given as places and sizes, in memory at good addresses; and their places there.

    Large pages and several readers: half a gigabyte takes a sixth of the time of one plain read.
    """
    start = min((at for at, _ in places.values()), default=0)
    # Half a page apart from where it stood in its page: where the two nearly agree, processors take each load for one
    # of the bytes just stored, and copying takes three times as long.
    first = (start + mmap.PAGESIZE // 2) % mmap.PAGESIZE // _ALIGNMENT * _ALIGNMENT
    moved: dict[str, tuple[int, int]] = {}
    end = 0
    for key, (at, size) in sorted(places.items(), key=lambda item: item[1]):
        to = -(-max(end, first + at - start) // _ALIGNMENT) * _ALIGNMENT
        moved[key] = to, size
        end = to + size
    memory = _memory(end)
    view = memoryview(memory)

    def fill(strip: list[tuple[int, int, int]]) -> None:
        for to, at, stop in strip:
            while to < stop:
                count = os.preadv(file.fileno(), [view[to:stop]], at)
                if not count:
                    raise UnreadableError  # cut short since it was mapped
                to, at = to + count, at + count

    pieces = []
    for key, (to, size) in moved.items():
        for part in range(0, size, _PIECE):
            pieces.append((to + part, places[key][0] + part, to + min(part + _PIECE, size)))
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(_READERS) as readers:
        # Strips, not neighbours by turns: each reader walks through the file.
        share = -(-len(pieces) // _READERS) or 1
        strips = [pieces[i : i + share] for i in range(0, len(pieces), share)]
        list(readers.map(fill, strips))
    return memory, moved


def _memory(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, max(size, 1))
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system may know no large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
