"""Torch's checkpoint files, mapped: named tensors and nothing else, read by an interpreter that can do nothing else.

A state dict is a small pickled program beside blocks of numbers. Torch's own safe reader runs any program of its kind
opcode by opcode, which is most of the time of loading a network with many layers, and maps only the newer of its two
formats. Here the few calls of a plain state dict are known, and no other; that takes a fifth of the time. Where a file
says more, or is not sound, `read` gives None, and the interpreter of `pickle_reader` has the word, by `read_with`.

Nothing of a file is read into memory before the sizes that it names have been held against its own: a record that is
compressed, or that lies over another, can be a thousand times as large as its file. And the CRC of each record is
checked, which torch does not do: one changed bit of a weight would load without a word.

The formats are those of torch/serialization.py: zip (torch ≥ 1.6), and the older one, where blocks follow the program.
Published files of both kinds are in use; torchvision's VGG weights are of the older.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vertebra.cache import keep_intact, known_intact
from vertebra.units import size as shown_size

_MAGIC = 0x1950A86A20F9469CFC6C  # first in the older format
_VERSION = 1001
_PROGRAM_LIMIT = 1 << 21  # bytes, each of which can make an object of 64; the largest network here has 250 kB
_STRETCHED = 1 << 26  # bytes of all tensors that have more numbers than their blocks (`expand`)
_WORTH_NOTING = 1 << 22  # bytes of a file; a smaller one is checked sooner than a note of it is found
_ALIGNMENT = 64  # bytes, as torch's allocator gives
_PIECE = 1 << 24  # bytes that a reader takes at once
_CRC_PIECE = 1 << 20  # bytes of which a CRC is taken at once, while they are in the processor's cache
_READERS = 2  # threads; memory is the limit, not the processor


class _UnusualError(Exception):
    """The file holds something else than a plain state dict.

    Args:
        what: where no reader here can do with it.
        advice: what to do then, if not what is said of all such files.
    """


class _Record(NamedTuple):
    """A file in a zip archive, as it lies there."""

    name: str
    at: int
    size: int
    crc: int


class _Storage(NamedTuple):
    """A block of numbers as the program names it."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


Block = Callable[[_Storage], Tensor]  # → its numbers, one-dimensional


Program = Callable[..., tuple[Any, int]]  # code, place, maker of tensors → object, end


def read(path: Path, mapped: bool = True) -> Any:
    """The object in a checkpoint, with its tensors on the CPU and copy-on-write; None where it is unusual or damaged.

    Blocks are mapped, unless that is not wanted; those of the older format, which stand at any address, are copied.
    Either way they begin at multiples of 64 bytes, as torch's own do; at others, kernels add in another order.
    """
    try:
        return read_with(_run, path, mapped)
    except MemoryError:
        raise
    except Exception:  # damage shows in any way
        return None


def read_with(run: Program, path: Path, mapped: bool) -> Any:
    """As `read`, by an interpreter of one's own; raises whatever damage leads to."""
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if content[:4] == b"PK\x03\x04":
        return _read_zip(path, content, mapped, run)
    return _read_older(path, content, run)


# --- the two formats -------------------------------------------------------------------------------------------------


def _read_zip(path: Path, content: mmap.mmap, mapped: bool, run: Program) -> Any:
    records = _records(path, content)
    if "byteorder" in records and _content(content, records["byteorder"]) != sys.byteorder.encode():
        raise _UnusualError("was saved on a machine with another order of bytes")
    if run is _run and records["data.pkl"].size > _PROGRAM_LIMIT:
        raise _UnusualError
    _check(path, records.values())
    program = _content(content, records["data.pkl"])

    places: dict[str, tuple[int, int]] = {}
    for name, record in records.items():
        folder, _, key = name.partition("/")
        if folder == "data":
            places[key] = record.at, record.size
    if not mapped:
        content, places = _copied(path, places)

    def block(storage: _Storage) -> Tensor:
        at, size = places[storage.key]
        if size < storage.nbytes:
            raise _UnusualError
        return _view(content, at, storage)

    return run(program, 0, _Tensors(block))[0]


def _content(content: mmap.mmap, record: _Record) -> bytes:
    return content[record.at : record.at + record.size]


def _records(path: Path, content: mmap.mmap) -> dict[str, _Record]:
    """What lies in an archive, by its name below the archive's own folder, and where; sizes and places are checked.

    Raises:
        _UnusualError: it is an archive of something else, or one that torch never writes.
        ValueError: the places are not sound.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    # Every name begins with a folder, called like the file that was saved.
    names = [entry.filename.partition("/")[2] for entry in entries]
    if "constants.pkl" in names:
        raise _UnusualError("is a TorchScript program, not a state dict")
    if "data.pkl" not in names:
        inside = ", ".join(repr(entry.filename[:60]) for entry in entries[:3])
        raise _UnusualError(
            f"is a zip archive with {inside}, not torch's", "Unpack it, and name the weight file in it."
        )
    if any(entry.compress_type or entry.compress_size != entry.file_size for entry in entries):
        raise _UnusualError("is a compressed archive, which torch.save never writes")
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


def _read_older(path: Path, content: mmap.mmap, run: Program) -> Any:
    program = content[:_PROGRAM_LIMIT] if run is _run else content
    magic, at = run(program, 0)
    version, at = run(program, at)
    system, at = run(program, at)
    if magic != _MAGIC or version != _VERSION or system["little_endian"] != (sys.byteorder == "little"):
        raise _UnusualError

    # Where the blocks are is told behind the program, so a first run just collects their sizes.
    storages: dict[str, _Storage] = {}

    def collect(storage: _Storage) -> Tensor:
        storages[storage.key] = storage
        return torch.empty(storage.numel, dtype=storage.dtype, device="meta")

    _, end = run(program, at, _Tensors(collect))
    keys, stop = run(program, end)
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        # Before each block stands its number of elements.
        if struct.unpack_from("<q", content, stop) != (storages[key].numel,):
            raise _UnusualError
        places[key] = stop + 8, storages[key].nbytes
        stop += 8 + storages[key].nbytes
    if stop > len(content):
        raise _UnusualError

    content, places = _copied(path, places)
    return run(program, at, _Tensors(lambda storage: _view(content, places[storage.key][0], storage)))[0]


def _view(buffer: mmap.mmap, at: int, storage: _Storage) -> Tensor:
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
                    raise _UnusualError  # cut short since it was mapped
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


# --- the program -----------------------------------------------------------------------------------------------------

_ORDERED_DICT, _TENSOR, _PARAMETER = "OrderedDict", "tensor", "parameter"

# Every name that a program may use. What it gets are words and types; nothing that could be called.
_NAMES: dict[bytes, Any] = {
    b"collections\nOrderedDict": _ORDERED_DICT,
    b"torch._utils\n_rebuild_tensor": _TENSOR,
    b"torch._utils\n_rebuild_tensor_v2": _TENSOR,
    b"torch._utils\n_rebuild_parameter": _PARAMETER,
    b"torch\nFloatStorage": torch.float32,
    b"torch\nDoubleStorage": torch.float64,
    b"torch\nHalfStorage": torch.float16,
    b"torch\nBFloat16Storage": torch.bfloat16,
    b"torch\nLongStorage": torch.int64,
    b"torch\nIntStorage": torch.int32,
    b"torch\nShortStorage": torch.int16,
    b"torch\nCharStorage": torch.int8,
    b"torch\nByteStorage": torch.uint8,
    b"torch\nBoolStorage": torch.bool,
}


class _Tensors:
    """Makes the tensors that a program asks for."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._blocks: dict[str, tuple[torch.dtype, Tensor]] = {}
        self._stretched = 0  # bytes that tensors would have with numbers of their own, where they repeat a block's

    def make(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        if type(storage) is not _Storage:
            raise _UnusualError
        if storage.key not in self._blocks:
            self._blocks[storage.key] = storage.dtype, self._block(storage)
        dtype, numbers = self._blocks[storage.key]
        if dtype != storage.dtype:
            raise _UnusualError
        last = offset
        for length, step in zip(size, stride, strict=True):
            last += (length - 1) * step
        # Torch refuses negative numbers, but enlarges a block that was copied for a tensor that reaches beyond it.
        if last >= numbers.numel() and 0 not in size:
            raise _UnusualError
        if (count := math.prod(size)) > numbers.numel():
            self._stretched += count * dtype.itemsize
            if self._stretched > _STRETCHED:
                raise _UnusualError(f"has tensors of {shown_size(self._stretched)} that repeat the same few numbers")
        whole = numbers.untyped_storage()
        return torch.empty(0, dtype=dtype, device=numbers.device).set_(whole, offset, size, stride)


def _storage(identity: Any) -> _Storage:
    kind, dtype, key, _, numel, *view = identity  # the fourth is the device that it was saved from
    if kind != "storage" or view not in ([], [None]):  # a view is a part of another storage (torch < 0.4)
        raise _UnusualError
    if type(dtype) is not torch.dtype or type(key) is not str or type(numel) is not int or numel < 0:
        raise _UnusualError
    return _Storage(key, dtype, numel)


def _call(function: Any, arguments: Any, tensors: _Tensors | None) -> Any:
    if function is _TENSOR and tensors:
        return tensors.make(*arguments)
    if function is _ORDERED_DICT and not arguments:
        return OrderedDict()
    if function is _PARAMETER:
        return arguments[0]
    raise _UnusualError


def _set_attributes(made: Any, state: Any) -> None:
    """Of a state dict, what its modules say of themselves beside their tensors; of anything else nothing."""
    if type(made) is OrderedDict and isinstance(state, dict) and isinstance(state.get("_metadata"), dict):
        vars(made)["_metadata"] = state["_metadata"]


def _run(code: bytes, at: int, tensors: _Tensors | None = None) -> tuple[Any, int]:
    """Run the pickle at `at`: its object, and where it ends. The opcodes are named as in Python's pickletools."""
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    push = stack.append
    while True:
        op = code[at]
        at += 1
        # Ordered by how often a state dict has them; each step of the way costs.
        if op == 0x72:  # LONG_BINPUT
            memo[int.from_bytes(code[at : at + 4], "little")] = stack[-1]
            at += 4
        elif op == 0x68:  # BINGET
            push(memo[code[at]])
            at += 1
        elif op == 0x4B:  # BININT1
            push(code[at])
            at += 1
        elif op == 0x58:  # BINUNICODE
            end = at + 4 + int.from_bytes(code[at : at + 4], "little")
            push(code[at + 4 : end].decode())
            at = end
        elif op == 0x28:  # MARK
            marks.append(stack)
            stack = []
            push = stack.append
        elif op == 0x74:  # TUPLE
            items, stack = stack, marks.pop()
            push = stack.append
            push(tuple(items))
        elif op == 0x52:  # REDUCE
            arguments = stack.pop()
            stack[-1] = _call(stack[-1], arguments, tensors)
        elif op == 0x4D:  # BININT2
            push(int.from_bytes(code[at : at + 2], "little"))
            at += 2
        elif op == 0x29:  # EMPTY_TUPLE
            push(())
        elif op == 0x85:  # TUPLE1
            stack[-1] = (stack[-1],)
        elif op == 0x51:  # BINPERSID
            stack[-1] = _storage(stack[-1])
        elif op == 0x89:  # NEWFALSE
            push(False)
        elif op == 0x7D:  # EMPTY_DICT
            push({})
        elif op == 0x73:  # SETITEM
            value, key = stack.pop(), stack.pop()
            if type(key) is tuple:  # hashing one that is nested deeply ends the process
                raise _UnusualError
            stack[-1][key] = value
        elif op == 0x6A:  # LONG_BINGET
            push(memo[int.from_bytes(code[at : at + 4], "little")])
            at += 4
        elif op == 0x71:  # BINPUT
            memo[code[at]] = stack[-1]
            at += 1
        elif op == 0x4A:  # BININT
            push(int.from_bytes(code[at : at + 4], "little", signed=True))
            at += 4
        elif op == 0x75:  # SETITEMS
            items, stack = stack, marks.pop()
            push = stack.append
            if any(type(key) is tuple for key in items[::2]):
                raise _UnusualError
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif op == 0x86:  # TUPLE2
            stack[-2:] = [tuple(stack[-2:])]
        elif op == 0x87:  # TUPLE3
            stack[-3:] = [tuple(stack[-3:])]
        elif op == 0x88:  # NEWTRUE
            push(True)
        elif op == 0x4E:  # NONE
            push(None)
        elif op == 0x5D:  # EMPTY_LIST
            push([])
        elif op == 0x61:  # APPEND
            value = stack.pop()
            stack[-1].append(value)
        elif op == 0x65:  # APPENDS
            items, stack = stack, marks.pop()
            push = stack.append
            stack[-1].extend(items)
        elif op == 0x47:  # BINFLOAT
            push(struct.unpack_from(">d", code, at)[0])
            at += 8
        elif op == 0x8A:  # LONG1
            end = at + 1 + code[at]
            push(int.from_bytes(code[at + 1 : end], "little", signed=True))
            at = end
        elif op == 0x63:  # GLOBAL
            end = code.index(b"\n", code.index(b"\n", at) + 1)
            push(_NAMES[code[at:end]])
            at = end + 1
        elif op == 0x62:  # BUILD
            if type(stack[-2]) is not OrderedDict:
                raise _UnusualError
            state = stack.pop()
            _set_attributes(stack[-1], state)
        elif op == 0x80:  # PROTO
            at += 1
        elif op == 0x2E:  # STOP
            return stack.pop(), at
        else:
            raise _UnusualError
