"""The reader of torch's files, against torch's own: the same tensors, or an error; and no program is run."""

from __future__ import annotations

import copy
import os
import pickle
import random
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vertebra.models import pickle_reader, torch_file
from vertebra.models.pickle_reader import InertObject, UnreadableError

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])


def save(content: Any, path: Path, zipped: bool, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


def read_or_none(path: Path) -> Any:
    """None where reading it is an error, as `weight_reader` gives for damage of any kind."""
    try:
        return torch_file.read(path)
    except Exception:
        return None


def assert_same(got: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        assert isinstance(got, Tensor)
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        assert got.stride() == expected.stride()
        assert got.storage_offset() == expected.storage_offset()
        assert torch.equal(got, expected)
        assert got.data_ptr() % got.itemsize == 0
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key, value in expected.items():
            assert_same(got[key], value)
    elif isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    else:
        assert type(got) is type(expected)
        assert got == expected


BASE = torch.arange(24.0)

CONTENTS = {
    "flat": OrderedDict(a=torch.randn(3, 4), b=torch.tensor(7), c=torch.tensor([True, False])),
    "types": {
        str(t): torch.arange(5).to(t)
        for t in (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.uint8)
    },
    "views": {"row": BASE.view(4, 6)[1], "turned": BASE.view(4, 6).t(), "spread": BASE[::5], "all": BASE},
    "stretched": {"a": torch.tensor(2.0).expand(3, 2)},
    "channels-last": {"a": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)},
    "empty": {"a": torch.empty(0), "b": torch.empty(0, 3), "c": torch.ones(2)[:0]},
    "none": {},
    "run": {
        "epoch": 300,
        "big": 2**40,
        "negative": -70000,
        "rate": 0.1,
        "best": None,
        "flags": [True, False, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), []],
        "name": "größer",
        "model": OrderedDict({"layer.größe": torch.ones(2)}),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": 1e-3, "params": [0, 1]}]},
    },
    "list": [torch.ones(2), 3],
}


@FORMATS
@pytest.mark.parametrize("name", CONTENTS)
def test_reads_what_torch_reads(tmp_path: Path, name: str, zipped: bool) -> None:
    path = save(CONTENTS[name], tmp_path / "file.pth", zipped)
    assert_same(torch_file.read(path), torch.load(path, weights_only=True))


@FORMATS
def test_reads_a_networks_state(tmp_path: Path, zipped: bool) -> None:
    network = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(80)))
    path = save(network.state_dict(), tmp_path / "file.pth", zipped)
    assert_same(torch_file.read(path), torch.load(path, weights_only=True))


@FORMATS
def test_parameters_become_tensors(tmp_path: Path, zipped: bool) -> None:
    path = save({"a": nn.Parameter(torch.ones(2))}, tmp_path / "file.pth", zipped)
    got = torch_file.read(path)["a"]
    assert type(got) is Tensor
    assert got.tolist() == [1, 1]


@FORMATS
def test_tensors_that_share_memory_still_do(tmp_path: Path, zipped: bool) -> None:
    path = save({"a": BASE[:4], "b": BASE[2:]}, tmp_path / "file.pth", zipped)
    got = torch_file.read(path)
    got["a"][3] = 99
    assert got["b"][1] == 99


@FORMATS
def test_tensors_are_no_views_and_have_their_own_storage(tmp_path: Path, zipped: bool) -> None:
    path = save({"a": torch.ones(100, 10), "b": torch.ones(100)}, tmp_path / "file.pth", zipped)
    for value in torch_file.read(path).values():
        assert not value._is_view()
        assert value.untyped_storage().nbytes() == value.nbytes  # saving one must not save all


@pytest.mark.parametrize("extra", range(8))
@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_older_files_whose_numbers_lie_at_odd_addresses(tmp_path: Path, extra: int, size: int) -> None:
    content = {"x" * (extra + 1): torch.randn(size), "count": torch.tensor(2**40), "last": torch.randn(7)}
    path = save(content, tmp_path / "file.pth", zipped=False)
    assert_same(torch_file.read(path), torch.load(path, weights_only=True))


def test_older_files_change_neither_on_disk_nor_for_others(tmp_path: Path) -> None:
    for extra in range(4):
        path = save({"x" * (extra + 1): torch.ones(600_000)}, tmp_path / "file.pth", zipped=False)
        before = path.read_bytes()
        first, second = (next(iter(torch_file.read(path).values())) for _ in range(2))
        first.fill_(5)
        assert second.eq(1).all()
        assert path.read_bytes() == before


# --- what is not made ------------------------------------------------------------------------------------------------


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.way = function, arguments

    def __reduce__(self) -> Any:
        return self.way


LONG = torch.ones(2, dtype=torch.uint16)


@FORMATS
@pytest.mark.parametrize(
    "content",
    [
        {"a": {1, 2}},
        {"a": torch.Size([1])},
        {"a": torch.ones(2).to_sparse()},
        {"a": torch.ones(2, device="meta")},
        {"a": LONG},
        {"a": Call(int, "7")},
        {"a": Call(torch.device, "cpu")},
        nn.Linear(1, 1),
    ],
    ids=["set", "size", "sparse", "meta", "uint16", "call", "device", "network"],
)
def test_anything_but_plain_tensors_stays_closed(tmp_path: Path, content: Any, zipped: bool) -> None:
    got = read_or_none(save(content, tmp_path / "file.pth", zipped))
    if isinstance(content, dict) and content["a"] is LONG and not zipped:
        assert got is None  # the older format has no sizes for other types: what follows cannot be found
    else:
        assert isinstance(got["a"] if isinstance(got, dict) else got, InertObject)


@FORMATS
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols_are_read(tmp_path: Path, protocol: int, zipped: bool) -> None:
    assert_same(torch_file.read(save(CONTENTS["flat"], tmp_path / "file.pth", zipped, protocol)), CONTENTS["flat"])


def program(code: bytes, tmp_path: Path) -> Path:
    """A file with this program and one block of 64 bytes, at an odd address, so that it is copied."""
    path = tmp_path / "file.pth"
    code += b"\0" * (1 - len(code) % 2)  # 84 bytes of headers and names stand before the block
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/data.pkl", code)
        archive.writestr("file/data/0", b"\0" * 64)
    return path


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nmkdir\n(X\x01\x00\x00\x00ytR.",
        b"cbuiltins\neval\n(X\x01\x00\x00\x001tR.",
        b"cbuiltins\ngetattr\n.",
        b"(cos\nmkdir\nX\x01\x00\x00\x00yo.",  # OBJ
        b"(X\x01\x00\x00\x00yios\nmkdir\n.",  # INST
        b"\x8c\x02os\x8c\x05mkdir\x93\x8c\x01y\x85R.",  # STACK_GLOBAL
        b"ccollections\nOrderedDict\n)\x81.",  # NEWOBJ
        b"\x82\x01.",  # EXT1
        b"X\x01\x00\x00\x00y)R.",  # calling a string
        b"ctorch\nFloatStorage\n)R.",  # calling a type
        b"}}b.",  # attributes of a plain dict
        b"ccollections\nOrderedDict\n}b.",  # attributes of the class
        b"(R.",
        b".",
        b"",
        b"X\xff\xff\xff\xffabc.",
        b"\x80\x02}q\x00h\x05.",
    ],
)
def test_no_program_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    if code.startswith(b"cos"):  # the attack is real
        with pytest.raises(FileNotFoundError):
            pickle.loads(code.replace(b"y", b"z/y").replace(b"\x01\x00\x00\x00", b"\x03\x00\x00\x00"))
    got = read_or_none(program(code, tmp_path))
    assert not callable(got) and not isinstance(got, Tensor)
    assert not (tmp_path / "y").exists()


def tensor_program(
    storage: bytes, numel: int, offset: int, size: int, stride: int, kind: str = "storage", view: bytes = b""
) -> bytes:
    """A program that asks for one tensor (size,) in the block "0" of `numel` numbers."""

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    identity = b"(" + text(kind) + storage + text("0") + text("cpu") + number(numel) + view + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + number(offset) + number(size) + b"\x85" + number(stride)
        + b"\x85\x89N" + b"tR."
    )  # fmt: skip


def test_tensors_stay_inside_their_block(tmp_path: Path) -> None:
    floats = b"ctorch\nFloatStorage\n"
    assert torch_file.read(program(tensor_program(floats, 16, 4, 12, 1), tmp_path)).shape == (12,)
    for numel, offset, size, stride in (
        (17, 0, 1, 1),  # the block is larger than what the file has
        (16, 4, 13, 1),
        (16, 0, 17, 1),
        (16, 0, 9, 2),
        (16, -1, 4, 1),
        (16, 3, 4, -1),
        (16, 0, -4, 1),
        (-1, 0, 1, 1),
        (2**31 - 1, 0, 1, 1),
        (0, 0, 16, 1),
    ):
        path = program(tensor_program(floats, numel, offset, size, stride), tmp_path)
        assert read_or_none(path) is None, (numel, offset, size, stride)
    for storage, kind, view in (
        (b"X\x01\x00\x00\x00y", "storage", b""),  # a type that is a string
        (floats, "module", b""),
        (floats, "storage", b"X\x01\x00\x00\x00y"),  # a part of another storage
    ):
        path = program(tensor_program(storage, 16, 0, 1, 1, kind, view), tmp_path)
        assert not isinstance(read_or_none(path), Tensor), (storage, kind, view)
    assert torch_file.read(program(tensor_program(floats, 16, 0, 1, 1, "storage", b"N"), tmp_path)).shape == (1,)


def test_a_block_has_one_size_and_type(tmp_path: Path) -> None:
    first = tensor_program(b"ctorch\nFloatStorage\n", 8, 0, 8, 1)
    for name, numel, size, sound in (("Float", 16, 8, True), ("Float", 16, 16, False), ("Int", 8, 8, False)):
        second = tensor_program(f"ctorch\n{name}Storage\n".encode(), numel, 0, size, 1)
        got = read_or_none(program(first[:-1] + second[:-1] + b"\x86.", tmp_path))
        assert (got is not None) is sound, (name, numel, size)


def test_packed_foreign_and_scripted_archives_are_refused(tmp_path: Path) -> None:
    path = save({"a": torch.arange(100.0)}, tmp_path / "file.pth", zipped=True)
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}

    def repacked(compression: int = zipfile.ZIP_STORED, **changes: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / "other.pth", "w", compression) as archive:
            for name, content in {**parts, **{f"file/{k.replace('_', '.')}": v for k, v in changes.items()}}.items():
                archive.writestr(name, content)
        return tmp_path / "other.pth"

    assert torch_file.read(repacked())["a"].tolist() == list(range(100))
    assert read_or_none(repacked(zipfile.ZIP_DEFLATED)) is None
    assert read_or_none(repacked(byteorder=b"big")) is None
    assert read_or_none(repacked(constants_pkl=b"")) is None


# --- sizes and sums that an archive names ----------------------------------------------------------------------------


Change = Callable[[zipfile.ZipFile], None]


def archive(path: Path, parts: dict[str, bytes], change: Change = lambda archive: None) -> Path:
    """A zip of these parts; `change` gets it before its directory is written."""
    with zipfile.ZipFile(path, "w") as written:
        for name, content in parts.items():
            written.writestr(name, content)
        change(written)
    return path


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, bytes]:
    """What lies in a checkpoint."""
    path = save({"a": torch.arange(1000.0), "b": torch.ones(7)}, tmp_path / "sound.pth", zipped=True)
    with zipfile.ZipFile(path) as sound:
        return {info.filename: sound.read(info) for info in sound.infolist()}


def why_not(path: Path) -> str:
    """The reason why a file is refused."""
    with pytest.raises((ValueError, UnreadableError, zipfile.BadZipFile)) as told:
        torch_file.read(path)
    return str(told.value)


def test_one_bit_of_any_record(tmp_path: Path) -> None:
    path = save({"a": torch.arange(30.0), "b": torch.ones(3)}, tmp_path / "file.pth", zipped=True)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as sound:
        starts = {info.filename: whole.index(sound.read(info), info.header_offset) for info in sound.infolist()}
        sizes = {info.filename: info.file_size for info in sound.infolist()}
    for name, start in starts.items():
        for at in range(start, start + sizes[name]):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << at % 8
            path.write_bytes(damaged)
            assert read_or_none(path) is None, (name, at)
    assert "Bad CRC-32 for file 'file/.data/serialization_id'" in why_not(path)


def test_a_file_that_was_saved_without_sums_is_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        path = save(CONTENTS["flat"], tmp_path / "file.pth", zipped=True)
    finally:
        torch.serialization.set_crc32_options(before)
    assert_same(torch_file.read(path), CONTENTS["flat"])


def test_sums_are_taken_of_the_records_as_the_threads_of_python_3_12_cannot_open_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There `ZipFile.open` moves from where another thread has left the file, and a sound record has another sum."""
    path = save({"a": torch.arange(30.0), "b": torch.ones(3)}, tmp_path / "file.pth", zipped=True)

    def opened(*_: object) -> None:
        raise zipfile.BadZipFile("Bad CRC-32")

    monkeypatch.setattr(zipfile.ZipFile, "open", opened)
    assert torch_file.read(path)["b"].tolist() == [1, 1, 1]


def test_the_sum_of_a_record_of_several_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_file, "_CRC_CHUNK", 7)
    path = save({"a": torch.arange(30.0)}, tmp_path / "file.pth", zipped=True)
    assert torch_file.read(path)["a"].tolist() == list(range(30))


def test_sums_are_taken_once_for_each_state_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save({"a": torch.arange(30.0)}, tmp_path / "file.pth", zipped=True)
    taken: list[int] = []

    def crc32(content: memoryview, *before: int) -> int:
        taken.append(len(content))
        return zlib.crc32(content, *before)

    monkeypatch.setattr(torch_file, "zlib", SimpleNamespace(crc32=crc32))
    torch_file.read(path)
    once = len(taken)
    torch_file.read(path)
    assert once > 3 and len(taken) == 2 * once, "a small file is not noted"
    monkeypatch.setattr(torch_file, "_MIN_NOTED_SIZE", 0)
    for _ in range(3):
        assert torch_file.read(path) is not None
    assert len(taken) == 3 * once
    os.utime(path, ns=(1, 1))
    assert torch_file.read(path) is not None
    assert len(taken) == 4 * once


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, zipfile.ZIP_DEFLATED) for name in ("byteorder", "data.pkl", "data/0", "more")]
    + [("byteorder", zipfile.ZIP_BZIP2)],
)
def test_a_bomb_is_not_unpacked(tmp_path: Path, parts: dict[str, bytes], name: str, method: int) -> None:
    def pack(written: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(f"sound/{name}")
        info.compress_type = method
        with written.open(info, "w") as record:
            for _ in range(32):
                record.write(bytes(1 << 20))

    path = archive(tmp_path / "bomb.pth", {k: v for k, v in parts.items() if k != f"sound/{name}"}, pack)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        assert why_not(path) == "is a compressed archive, which torch.save never writes"
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_records_that_lie_over_another(tmp_path: Path, parts: dict[str, bytes]) -> None:
    def again(written: zipfile.ZipFile) -> None:
        other = copy.copy(written.getinfo("sound/data/0"))
        other.filename = other.orig_filename = "sound/data/2"
        written.filelist.append(other)

    assert "larger than the file" in why_not(archive(tmp_path / "m.pth", parts, again))


def test_a_record_that_is_said_to_be_larger_than_its_file(tmp_path: Path, parts: dict[str, bytes]) -> None:
    def lie(written: zipfile.ZipFile) -> None:
        last = max(written.filelist, key=lambda info: info.header_offset)
        last.file_size = last.compress_size = 1 << 31

    assert "larger than the file" in why_not(archive(tmp_path / "m.pth", parts, lie))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_records_of_one_name(tmp_path: Path, parts: dict[str, bytes]) -> None:
    again = archive(tmp_path / "m.pth", parts, lambda written: written.writestr("sound/data/0", b"x" * 4000))
    assert "the same name" in why_not(again)
    other = archive(tmp_path / "m.pth", parts, lambda written: written.writestr("other/data/0", b"x" * 4000))
    assert "the same name" in why_not(other)


@FORMATS
def test_tensors_that_repeat_a_number_without_end(tmp_path: Path, zipped: bool) -> None:
    """Small in a file and in memory, and 15 GB once they are copied into a network."""
    wide = {"a": torch.zeros(1, 1).expand(3_000_000, 1280)}
    reason = why_not(save(wide, tmp_path / "file.pth", zipped))
    assert reason == "has tensors of 15.4 GB that repeat the same few numbers"
    many = {str(i): torch.zeros(1).expand(1_000_000) for i in range(20)}
    assert "repeat the same few numbers" in why_not(save(many, tmp_path / "file.pth", zipped))


def test_a_program_without_end(tmp_path: Path, parts: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "_MAX_STEPS", 1000)
    for count, sound in ((900, True), (1100, False)):
        code = b"\x80\x02(" + b"}" * count + b"l."
        path = archive(tmp_path / "m.pth", {**parts, "sound/data.pkl": code})
        if sound:
            assert len(torch_file.read(path)) == count
        else:
            assert why_not(path) == "holds more than 1,000 other things beside its tensors"


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    assert "is a zip archive with 'w.pth', 'x.txt', not torch's" in why_not(
        archive(tmp_path / "m.pth", {"w.pth": b"PK", "x.txt": b""})
    )


@pytest.mark.parametrize("what", ["magic", "version", "order", "count"])
def test_older_files_that_say_something_else_are_refused(tmp_path: Path, what: str) -> None:
    path = save({"a": torch.arange(77.0)}, tmp_path / "file.pth", zipped=False)
    whole = path.read_bytes()
    before, after = {
        "magic": (b"\x6c\xfc\x9c\x46", b"\x6c\xfc\x9c\x47"),
        "version": (b"M\xe9\x03", b"M\xea\x03"),
        "order": (b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
        "count": ((77).to_bytes(8, "little"), (78).to_bytes(8, "little")),
    }[what]
    assert whole.count(before) == 1 or what == "version"
    assert torch_file.read(path) is not None
    path.write_bytes(whole.replace(before, after, 1))
    assert read_or_none(path) is None


@FORMATS
def test_damaged_files_give_an_error_or_numbers(tmp_path: Path, zipped: bool) -> None:
    """Never a crash: a byte changed anywhere, and a file cut anywhere."""
    path = save(CONTENTS["run"], tmp_path / "file.pth", zipped)
    whole = path.read_bytes()
    chance = random.Random(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        refused += read_or_none(path) is None
    assert 0 < refused < 400
    for size in range(0, len(whole) - 1, max(1, len(whole) // 100)):
        path.write_bytes(whole[:size])
        assert read_or_none(path) is None


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see mappings")
@pytest.mark.skipif(os.name == "nt", reason="needs /proc")
def test_blocks_are_mapped_privately(tmp_path: Path) -> None:
    path = save({"x": torch.ones(600_000)}, tmp_path / "file.pth", zipped=True)
    tensor = torch_file.read(path)["x"]
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < stop and line.endswith(str(path)):
            assert line.split()[1] == "rw-p"
            return
    pytest.fail("no tensor lies in the file")


@FORMATS
def test_blocks_begin_where_torchs_own_do(tmp_path: Path, zipped: bool) -> None:
    content = {str(i): torch.arange(i + 1.0) for i in range(20)}
    for mapped in (True, False):
        got = torch_file.read(save(content, tmp_path / "file.pth", zipped), mapped)
        assert all(tensor.data_ptr() % 64 == 0 for tensor in got.values())
        assert_same(got, content)
