"""Torch's checkpoint files: a small pickled program beside storages, which are mapped or copied.

The program is run by `pickle_reader`, which can make tensors and nothing else. Nothing of a file is read into memory
before the sizes that it names have been held against its own, as a record that is compressed, or that lies over
another, can be a thousand times as large as its file. The CRC of each record is checked, which `torch.load` does not
do: one changed bit of a weight would load without a word otherwise.

The formats are those of torch/serialization.py: zip (torch ≥ 1.6), and the older one, where storages follow the
program. Published files of both kinds are in use; torchvision's VGG weights are of the older. bench/loading.py has the
times beside `torch.load`.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import struct
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vertebra.cache import is_verified, record_verified

from .pickle_reader import PickleReader, UnreadableError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first in the older format
_LEGACY_VERSION = 1001
_MIN_NOTED_SIZE = 1 << 22  # bytes of a file; a smaller one is checked sooner than a note of it is found
_ALIGNMENT = 64  # bytes, as torch's allocator gives
_CRC_CHUNK = 1 << 20  # bytes of which a CRC is taken at once, while they are in the processor's cache
_CRC_THREADS = 2  # threads; memory is the limit, not the processor

Extents = dict[str, tuple[int, int]]  # of storages by key: where they begin, and their bytes


def read(path: Path, mapped: bool = True) -> Any:
    """The object in a checkpoint, with its tensors on the CPU and copy-on-write.

    Storages are mapped, unless that is not wanted; those of the older format, which stand at any address, are copied.
    Either way they begin at multiples of 64 bytes, as torch's own do; at others, kernels add in another order.

    Raises:
        UnreadableError: it holds something that no network here can take.
        Exception: it is damaged, which shows in any way.
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if content[:4] == b"PK\x03\x04":
            return _read_zip(path, file, content, mapped)
        return _read_legacy(file, content)


def bare_pickle(path: Path) -> tuple[str | None, bool]:
    """Of a pickle that is no checkpoint of torch's: what it would import first beside torch; whether it is whole."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        reader = PickleReader(content)
        try:
            reader.load()
            whole = content.tell() == len(content)
        except Exception:
            whole = False
    return next((name for name in reader.names if not name.startswith(("torch.", "collections."))), None), whole


def _read_zip(path: Path, file: BinaryIO, content: mmap.mmap, mapped: bool) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    records = _records(entries, content)
    _verify_crcs(path, content, [(entry, *place) for entry, place in zip(entries, records.values(), strict=True)])
    places = {name.removeprefix("data/"): place for name, place in records.items() if name.startswith("data/")}

    def record(name: str) -> bytes:
        at, size = records[name]
        return content[at : at + size]

    if "byteorder" in records and record("byteorder") != sys.byteorder.encode():
        raise UnreadableError("was saved on a machine with another order of bytes")
    program = record("data.pkl")
    if not mapped or any(at % _ALIGNMENT for at, _ in places.values()):  # a zip that another program wrote
        content, places = _copy_storages(file, places)

    def storage(key: str, dtype: torch.dtype, numel: int) -> Tensor:
        at, size = places[key]
        if size < numel * dtype.itemsize:
            raise UnreadableError
        return _tensor_view(content, at, dtype, numel)

    return PickleReader(io.BytesIO(program), storage).load()


def _records(entries: list[zipfile.ZipInfo], content: mmap.mmap) -> Extents:
    """What lies in an archive, by its name below the archive's own folder.

    Raises:
        UnreadableError: it is an archive of something else, or one that torch never writes.
        ValueError: the places are not sound.
    """
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
    if sum(entry.file_size for entry in entries) > len(content):
        raise ValueError("its records are larger than the file: they lie over one another or reach beyond the end")

    records = {}
    for entry, name in zip(entries, names, strict=True):
        # The local header may have other extra fields than the directory's: torch pads with them.
        at = entry.header_offset + 30 + sum(struct.unpack_from("<HH", content, entry.header_offset + 26))
        if at + entry.file_size > len(content):
            raise ValueError(f"the record {name[:60]!r} reaches beyond the end")
        records[name] = at, entry.file_size
    return records


def _verify_crcs(path: Path, content: mmap.mmap, records: list[tuple[zipfile.ZipInfo, int, int]]) -> None:
    """Hold the records of an archive against their CRCs, once for each state of the file: see `cache.is_verified`.

    They are not opened by `zipfile`: in versions of Python 3.12 and 3.13 a thread that opens one moves to it from where
    another has left the file, and finds other bytes (github.com/python/cpython/issues/128258).

    Args:
        path: the archive.
        content: of the archive.
        records: entries of its directory, and for each where it begins and its bytes.

    Raises:
        zipfile.BadZipFile: one is damaged.
    """
    if not any(entry.CRC for entry, _, _ in records):
        return  # saved under torch.serialization.set_crc32_options(False), which writes zeros: it cannot be known
    status = path.stat()
    noted = status.st_size >= _MIN_NOTED_SIZE
    if noted and is_verified(path, status):
        return

    def check(record: tuple[zipfile.ZipInfo, int, int]) -> None:
        entry, at, size = record
        crc = 0
        for start in range(at, at + size, _CRC_CHUNK):
            crc = zlib.crc32(view[start : min(start + _CRC_CHUNK, at + size)], crc)
        if crc != entry.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {entry.filename!r}")

    with memoryview(content) as view, ThreadPoolExecutor(_CRC_THREADS) as readers:
        list(readers.map(check, sorted(records, key=lambda record: -record[2])))
    if noted:
        record_verified(path, status)


def _read_legacy(file: BinaryIO, content: mmap.mmap) -> Any:
    magic, version, system = (PickleReader(content).load() for _ in range(3))
    if magic != _LEGACY_MAGIC or version != _LEGACY_VERSION or system["little_endian"] != (sys.byteorder == "little"):
        raise UnreadableError

    # Where the storages are stands behind the program, so a first run only collects their sizes.
    sizes: dict[str, tuple[int, int]] = {}

    def collect(key: str, dtype: torch.dtype, numel: int) -> Tensor:
        sizes[key] = numel, numel * dtype.itemsize
        return torch.empty(numel, dtype=dtype, device="meta")

    start = content.tell()
    PickleReader(content, collect).load()
    places: Extents = {}
    keys = PickleReader(content).load()
    at = content.tell()
    for key in keys:
        # Before each storage stands its number of elements.
        numel, size = sizes[key]
        if struct.unpack_from("<q", content, at) != (numel,):
            raise UnreadableError
        places[key] = at + 8, size
        at += 8 + size
    if at > len(content):
        raise UnreadableError

    memory, places = _copy_storages(file, places)
    content.seek(start)
    return PickleReader(content, lambda key, dtype, numel: _tensor_view(memory, places[key][0], dtype, numel)).load()


def _tensor_view(buffer: mmap.mmap, at: int, dtype: torch.dtype, numel: int) -> Tensor:
    return torch.frombuffer(buffer, dtype=dtype, count=numel, offset=at) if numel else torch.empty(0, dtype=dtype)


def _copy_storages(file: BinaryIO, places: Extents) -> tuple[mmap.mmap, Extents]:
    """Storages in memory at good addresses, and their places there.

    Large pages: half a gigabyte takes a third of the time that storages of their own do.
    """
    moved: Extents = {}
    end = 0
    for key, (_, size) in places.items():
        moved[key] = end, size
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    memory = mmap.mmap(-1, max(end, 1), **_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system may know no large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    with memoryview(memory) as view:
        for key, (to, size) in moved.items():
            file.seek(places[key][0])
            if file.readinto(view[to : to + size]) != size:  # type: ignore[attr-defined]
                raise UnreadableError  # cut short since it was mapped
    return memory, moved


_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
