"""Checkpoints that hold more than tensors: what is beside them is never imported and never called."""

from __future__ import annotations

import argparse
import collections
import copyreg
import datetime
import enum
import functools
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vertebra.errors import WeightsError
from vertebra.models.pickle_reader import InertObject, PickleReader
from vertebra.models.torch_file import bare_pickle
from vertebra.models.weight_reader import read

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])


class Colour(enum.Enum):
    RED = 1


class Settings:
    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 0.1


class Tree(torch.nn.Parameter):
    pass


OBJECTS = {
    "namespace": argparse.Namespace(lr=0.1, sizes=[1, {"a": (2,)}]),
    "scalar": np.float64(71.5),
    "array": np.arange(3),
    "defaultdict": collections.defaultdict(list, {"top1": [1.0]}),
    "counter": collections.Counter("abc"),
    "path": Path("runs/1"),
    "date": datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
    "enum": Colour.RED,
    "slots": Settings(),
    "partial": functools.partial(int, base=2),
    "set": {1, 2},
    "frozen": frozenset("ab"),
    "bytes": b"\0\xff",
    "array of bytes": bytearray(b"ab"),
    "complex": 1j,
    "big": 2**3000,
    "long": torch.ones(1, dtype=torch.uint16),
    "device": torch.device("cpu"),
    "type": torch.float16,
    "size": torch.Size([1, 2]),
    "keys": {(1, 2): 3, None: 4, b"a": 5, 1.5: 6},
    "ordered": collections.OrderedDict([("a", 1)]),
    "module": torch.nn.Linear(1, 1),
    "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1).state_dict(),
}


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_beside_the_weights_are_passed_by(tmp_path: Path, protocol: int, zipped: bool) -> None:
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.nn.Parameter(torch.ones(2)), "c": torch.tensor(3)}
    content = {**OBJECTS, "model": weights, "last": 7}
    if zipped:
        content["complex numbers"] = torch.ones(2, dtype=torch.complex64)
    else:  # where the older format has no sizes for other types, what follows them cannot be found
        del content["long"]
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    got = read(tmp_path / "w.pth").value
    assert list(got) == list(content)
    assert got["last"] == 7
    assert got["bytes"] == b"\0\xff" or isinstance(got["bytes"], InertObject)
    assert got["optimizer"]["param_groups"][0]["lr"] == 0.1
    assert got["ordered"] == {"a": 1}
    for name, value in weights.items():
        assert type(got["model"][name]) is Tensor
        assert torch.equal(got["model"][name], value)
    names = {key: value.name for key, value in got.items() if isinstance(value, InertObject)}
    assert names["namespace"] == "argparse.Namespace"
    assert names["scalar"].endswith("multiarray.scalar")
    assert got["defaultdict"] == OBJECTS["defaultdict"]
    assert names["slots"].endswith("Settings") or names["slots"] == "copyreg._reconstructor"
    assert names["module"] == "torch.nn.modules.linear.Linear"


def test_tensors_of_a_class_of_ones_own_are_plain_tensors(tmp_path: Path) -> None:
    typed = torch.nn.Parameter(torch.ones(2))
    typed.origin = "here"  # type: ignore[attr-defined]
    torch.save({"a": typed, "b": {3}}, tmp_path / "w.pth")
    value = read(tmp_path / "w.pth").value["a"]
    assert type(value) is Tensor
    assert value.tolist() == [1, 1]


# --- hostile ----------------------------------------------------------------------------------------------------------


def program(code: bytes, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/data.pkl", code)
        archive.writestr("file/data/0", b"\0" * 64)
    return path


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a mark when it is imported, one that does when it is called, and a folder to look at."""
    (tmp_path / "trap_of_imports.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()\nboom = print\n")
    monkeypatch.syspath_prepend(tmp_path)
    called = types.ModuleType("trap_of_calls")
    called.boom = lambda *_: (tmp_path / "mark").touch()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trap_of_calls", called)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ATTACKS = {
    "reduce": b"ctrap_of_calls\nboom\n" + text("mark") + b"\x85R",
    "reduce of a reduce": b"cbuiltins\ngetattr\nctrap_of_calls\nboom\n" + text("__call__") + b"\x86R)R",
    "import": b"ctrap_of_imports\nboom\n)R",
    "stack global": b"\x8c\x0dtrap_of_calls\x8c\x04boom\x93)R",
    "inst": b"(" + text("mark") + b"itrap_of_calls\nboom\n",
    "obj": b"(ctrap_of_calls\nboom\n" + text("mark") + b"o",
    "newobj": b"ctrap_of_calls\nboom\n)\x81",
    "newobj_ex": b"ctrap_of_calls\nboom\n)}\x92",
    "build": b"ctrap_of_calls\nboom\n)\x81}" + text("__class__") + b"ctrap_of_calls\nboom\nsb",
    "build of an ordered dict": b"ccollections\nOrderedDict\n)R}" + text("__class__") + b"ctrap_of_calls\nboom\nsb",
    "system": b"cposix\nsystem\n" + text("touch mark") + b"\x85R",
    "eval": b"cbuiltins\neval\n" + text("open('mark', 'w')") + b"\x85R",
    "bytes of a pickle": b"ctorch.storage\n_load_from_bytes\nC\x13cposix\nsystem\n)R...\x85R",
    "memo": b"ctrap_of_calls\nboom\nq\x000h\x00)R",
    "extension": b"\x82\x01)R",
    "append": b"ctrap_of_calls\nboom\n(K\x01e",
    "additems": b"\x8f(ctrap_of_calls\nboom\n\x90",
    "key": b"}ctrap_of_calls\nboom\nK\x01s",
    "a parameter of a call": b"ctorch._utils\n_rebuild_parameter\nctrap_of_calls\nboom\n)R\x89N\x87R",
    "getattr of a module": b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n"
    + text("os")
    + b"\x85R"
    + text("system")
    + b"tR"
    + text("touch mark")
    + b"\x85R",
    "partial": b"cfunctools\npartial\n(cposix\nsystem\n" + text("touch mark") + b"tR)R",
    "encode": b"c_codecs\nencode\n" + text("x") + text("trap_of_imports") + b"\x86R",
    "numpy": b"cnumpy._core.multiarray\n_reconstruct\nctrap_of_calls\nboom\n(K\x00tC\x01b\x87R",
    "state of a foreign object": b"cpathlib\nPath\n)\x81}" + text("__setstate__") + b"ctrap_of_calls\nboom\nsb",
    "slots": b"cpathlib\nPath\n)\x81N}" + text("_drv") + b"ctrap_of_calls\nboom\ns\x86b",
    "torch.load": b"ctorch\nload\n" + text("trap_of_imports.py") + b"\x85R",
    "torch.jit": b"ctorch.jit._serialization\nload\n" + text("trap_of_imports.py") + b"\x85R",
    "torch.hub": b"ctorch.hub\nload\n" + text(".") + text("boom") + b"\x86R",
    "obj of a call": b"(ctrap_of_calls\nboom\n)Ro",
    "storage of bytes": b"ctorch.storage\n_load_from_bytes\nctorch\nFloatStorage\n\x85R",
    "typed of a typed call": b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\nN"
    b"(ctrap_of_calls\nboom\nN)NtNtR",
    "a typed call": b"ctorch._tensor\n_rebuild_from_type_v2\n(ctrap_of_calls\nboom\nN)NtR",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_imported_and_nothing_called(watched: Path, name: str) -> None:
    before = set(sys.modules)
    path = program(b"\x80\x02}" + text("args") + ATTACKS[name] + b"s.", watched / "w.pth")
    value = read(path).value
    assert isinstance(value, InertObject) or list(value) == ["args"]
    assert not (watched / "mark").exists()
    assert not {"trap_of_imports"} & (set(sys.modules) - before)


def tensor(size: int) -> bytes:
    """A tensor of `size` numbers in a storage of 16."""
    storage = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x10"
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQK\x00K" + bytes([size]) + b"\x85K\x01\x85\x89NtR"


@pytest.mark.parametrize(
    "state",
    [
        b"(" + tensor(16) + b"K\x00J\xff\xff\xff\x0f\x85K\x01\x85t",  # of a tensor of torch < 0.4: enlarges its storage
        b"}" + text("__class__") + b"ctrap_of_calls\nboom\ns",
        b"}" + text("_backward_hooks") + b"}K\x00ctrap_of_calls\nboom\nss",
        b"N}" + text("data") + tensor(1) + b"s\x86",
    ],
    ids=["set_", "class", "hooks", "slots"],
)
def test_the_state_of_a_tensor_is_passed_by(watched: Path, state: bytes) -> None:
    path = program(b"\x80\x02}" + text("a") + tensor(16) + state + b"bs.", watched / "w.pth")
    value = read(path).value["a"]
    assert type(value) is Tensor and value.shape == (16,) and value.untyped_storage().nbytes() == 64
    assert value._backward_hooks is None and vars(value) == {}
    assert not (watched / "mark").exists()


def test_every_opcode_that_could_run_code_is_ours() -> None:
    """What is left to Python's unpickler makes plain values, moves them, or ends in `find_class` and `_instantiate`."""
    plain = "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING"
    plain += " SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
    plain += " TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST EMPTY_DICT"
    moves = "PROTO FRAME MARK STOP POP POP_MARK DUP GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE"
    moves += " NEXT_BUFFER READONLY_BUFFER"
    ends = "GLOBAL STACK_GLOBAL INST OBJ EXT1 EXT2 EXT4 PERSID"
    harmless = {getattr(pickle, name)[0] for name in f"{plain} {moves} {ends}".split()}
    theirs = {code for code, method in PickleReader.dispatch.items() if method is pickle._Unpickler.dispatch.get(code)}
    assert theirs == harmless
    assert {"find_class", "_instantiate", "get_extension"} <= set(vars(PickleReader))


def test_a_registered_extension_stays_closed(watched: Path) -> None:
    copyreg.add_extension("trap_of_calls", "boom", 0x77)
    try:
        assert read(program(b"\x80\x02}" + text("a") + b"\x82\x77)Rs.", watched / "w.pth")).value["a"].name
        pickle.loads(b"\x80\x02\x82\x77)R.")  # in the cache of real objects now
        assert (watched / "mark").exists()
        (watched / "mark").unlink()
        assert read(program(b"\x80\x02}" + text("a") + b"\x82\x77)Rs.", watched / "w.pth")).value["a"].name
        assert not (watched / "mark").exists()
    finally:
        copyreg.remove_extension("trap_of_calls", "boom", 0x77)
        copyreg.clear_extension_cache()


def test_the_attacks_are_real(watched: Path) -> None:
    for name in ("reduce", "stack global", "inst", "obj", "system", "partial", "getattr of a module"):
        pickle.loads(b"\x80\x02" + ATTACKS[name] + b".")
        assert (watched / "mark").exists(), name
        (watched / "mark").unlink()


@pytest.mark.parametrize(
    "code",
    [
        b"(" * 100_000,
        b")" + b"\x85" * 100_000 + b".",
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"}" + b")" + b"\x85" * 200_000 + b"K\x01s.",  # a key whose hash would overflow the stack
        b"}" + b")" + b"q\x00h\x00\x86" * 200 + b"K\x01s.",  # one whose hash would take for ever
        b"\x8f(" + b")" + b"\x85" * 200_000 + b"\x90.",  # in a set
        b"\x8e" + (2**62).to_bytes(8, "little") + b"abc.",  # bytes that are not there
        b"\x8d" + (2**63 - 1).to_bytes(8, "little") + b"abc.",
        b"\x8b" + (2**31 - 1).to_bytes(4, "little") + b"abc.",
        b"\x96" + (2**40).to_bytes(8, "little") + b".",
        b"I" + b"9" * 100_000 + b"\n.",
        b"r\xff\xff\xff\xff.",
        b"\x95" + (2**63).to_bytes(8, "little") + b"N.",
        b"h\x07.",
        b"0000.",
        b"1111.",
        b"\x93.",
        b"R.",
        b"b.",
        b"2.",
        b"",
        b"\xf7.",
        b"P1\n.",
        b"NNN\x92.",
        b"ccollections\nOrderedDict\nK\x05\x85R.",
        b"ccollections\nOrderedDict\n" + b"]" + b"]" + b")" + b"\x85" * 100_000 + b"aaK\x01a\x85R.",
    ],
    ids=lambda code: repr(code[:12]),
)
def test_hostile_programs_end_in_an_error_or_in_nothing(tmp_path: Path, code: bytes) -> None:
    """Neither a crash nor memory without end: each is small, and so is what comes of it."""
    path = program(b"\x80\x04" + code, tmp_path / "w.pth")
    try:
        assert isinstance(read(path).value, tuple | list | dict | InertObject | bytes | None)
    except WeightsError as error:
        assert "\n" not in str(error)


def test_blocks_that_are_not_there_are_not_allocated(tmp_path: Path) -> None:
    """The older format says how long its blocks are before they come."""
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(77), "b": {1}}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    huge = (2**31 - 1).to_bytes(4, "little")
    changed = whole.replace(b"KM", b"J" + huge).replace((77).to_bytes(8, "little"), (2**31 - 1).to_bytes(8, "little"))
    assert changed != whole
    path.write_bytes(changed)
    with pytest.raises(WeightsError, match="damaged or cut short"):
        read(path)


def test_the_first_call_of_a_bare_pickle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"a": OBJECTS["namespace"], "b": os.getcwd}))
    assert bare_pickle(path) == ("argparse.Namespace", True)
    path.write_bytes(pickle.dumps({"a": collections.OrderedDict(b=1)}))
    assert bare_pickle(path) == (None, True)
    path.write_bytes(b"\x80\x02garbage")
    assert bare_pickle(path) == (None, False)
