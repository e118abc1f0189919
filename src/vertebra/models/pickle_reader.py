"""Pickles as data: an interpreter that imports nothing and calls nothing.

What a program would import, call or build becomes a `Foreign` that remembers its name and no more. So a checkpoint can
be read that holds a namespace, a NumPy scalar or a configuration beside its tensors, whatever these would do if they
were unpickled. Tensors alone are made, by the maker that is given.
"""

from __future__ import annotations

import contextlib
import enum
import io
import mmap
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from .stored_tensors import StoredTensors, UnreadableError, storage_of

_STEPS = 1_000_000  # of a program, each of which can make an object; 300 layers take 30,000
_KEYS = (str, int, float, bool, bytes, type(None))
# In a tensor of a class of one's own: what makes the plain tensor in it, and that tensor's arguments.
_TYPED = "torch._tensor._rebuild_from_type_v2"
_WITH_STATE = "torch._utils._rebuild_parameter_with_state"
# Read as the dict that it is; what it would call for a missing key stays closed.
_DEFAULT_DICT = "collections.defaultdict"


class _Made(enum.Enum):
    """What a program may call; the value is its name for people."""

    ORDERED_DICT = "collections.OrderedDict"
    TENSOR = "torch._utils._rebuild_tensor_v2"
    PARAMETER = "torch._utils._rebuild_parameter"


# Every name that is known. What a program gets for it are marks and types; nothing that could be called.
_NAMES: dict[str, Any] = {
    **{made.value: made for made in _Made},
    "torch._utils._rebuild_tensor": _Made.TENSOR,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


class Foreign:
    """Something that only running code could make: a class, a function, or what one of them would have given."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name  # module and name, as the program asks for them


def run(code: bytes | mmap.mmap, at: int, tensors: StoredTensors | None = None) -> tuple[Any, int]:
    """Run the pickle at `at`: its object, and where it ends. Keys that are neither text nor number become `Foreign`.

    Raises:
        ValueError, IndexError, …: the program is damaged.
    """
    file: Any = io.BytesIO(code) if isinstance(code, bytes) else code
    file.seek(at)
    return _run(file, _Machine(tensors)), file.tell()


def _run(file: Any, machine: _Machine) -> Any:
    methods: dict[str, Any] = {}
    for steps, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if steps > _STEPS:
            raise UnreadableError(f"holds more than {_STEPS:,} other things beside its tensors")
        name = opcode.name
        if name == "STOP":
            return machine.stack.pop()
        if name not in methods:
            methods[name] = getattr(machine, f"do_{name.lower()}", machine.unknown)
        methods[name](argument)
    raise ValueError("the program has no end")


class _Machine:
    """The stack and the memory of one program. The opcodes are named as in Python's pickletools."""

    def __init__(self, tensors: StoredTensors | None) -> None:
        self.tensors = tensors
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def unknown(self, _: Any) -> None:
        raise ValueError("an opcode that no checkpoint has")

    # --- values ---

    def push(self, value: Any) -> None:
        self.stack.append(value)

    do_int = do_binint = do_binint1 = do_binint2 = do_long = do_long1 = do_long4 = push
    do_string = do_binstring = do_short_binstring = push
    do_binbytes = do_short_binbytes = do_binbytes8 = do_bytearray8 = push
    do_unicode = do_short_binunicode = do_binunicode = do_binunicode8 = push
    do_float = do_binfloat = push

    def do_none(self, _: Any) -> None:
        self.push(None)

    def do_newtrue(self, _: Any) -> None:
        self.push(True)

    def do_newfalse(self, _: Any) -> None:
        self.push(False)

    def do_empty_list(self, _: Any) -> None:
        self.push([])

    def do_empty_dict(self, _: Any) -> None:
        self.push({})

    def do_empty_tuple(self, _: Any) -> None:
        self.push(())

    def do_empty_set(self, _: Any) -> None:
        self.push(Foreign("builtins.set"))  # hashing what is in it could take for ever

    # --- the stack ---

    def do_mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def do_pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def do_pop_mark(self, _: Any) -> None:
        self.since_mark()

    def do_dup(self, _: Any) -> None:
        self.push(self.stack[-1])

    def do_put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    do_binput = do_long_binput = do_put

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_get(self, number: int) -> None:
        self.push(self.memo[number])

    do_binget = do_long_binget = do_get

    def do_proto(self, _: Any) -> None:
        pass

    do_frame = do_readonly_buffer = do_proto

    # --- containers ---

    def do_tuple(self, _: Any) -> None:
        self.push(tuple(self.since_mark()))

    def do_list(self, _: Any) -> None:
        self.push(self.since_mark())

    def do_dict(self, _: Any) -> None:
        items = self.since_mark()
        self.push({})
        self.fill(items)

    def do_tuple1(self, _: Any) -> None:
        self.push((self.stack.pop(),))

    def do_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def do_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def do_frozenset(self, _: Any) -> None:
        self.since_mark()
        self.push(Foreign("builtins.frozenset"))

    def do_append(self, _: Any) -> None:
        self.extend([self.stack.pop()])

    def do_appends(self, _: Any) -> None:
        self.extend(self.since_mark())

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)

    def do_additems(self, _: Any) -> None:
        self.since_mark()

    def do_setitem(self, _: Any) -> None:
        items = self.stack[-2:]
        del self.stack[-2:]
        self.fill(items)

    def do_setitems(self, _: Any) -> None:
        self.fill(self.since_mark())

    def fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) in (dict, OrderedDict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                # Other keys would be hashed, and tuples can be nested so deeply that this ends the process.
                target[key if type(key) in _KEYS else Foreign("a key")] = value

    # --- what would run code ---

    def do_global(self, words: str) -> None:
        module, _, name = words.partition(" ")
        self.find(module, name)

    def do_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        self.find(module, name)

    def find(self, module: str, name: str) -> None:
        known = _NAMES.get(f"{module}.{name}")
        self.push(Foreign(f"{module}.{name}") if known is None else known)

    def do_reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.push(self.call(function, arguments))

    def call(self, function: Any, arguments: Any) -> Any:
        if type(arguments) is not tuple:
            raise ValueError("arguments that are no tuple")
        if isinstance(function, Foreign):
            if function.name == _DEFAULT_DICT:
                return {}
            if function.name == _WITH_STATE:
                return arguments[0]
            if function.name == _TYPED and type(arguments[2]) is tuple:
                return self.call(arguments[0], arguments[2])
            return function
        if function is _Made.ORDERED_DICT:
            self.stack.append(OrderedDict())
            pairs = arguments[0] if arguments else []
            self.fill([part for pair in pairs for part in pair])
            return self.stack.pop()
        if function is _Made.TENSOR and arguments and isinstance(arguments[0], Foreign):
            return arguments[0]
        if self.tensors is not None and function is _Made.TENSOR:
            return self.tensors.make(*arguments)
        if self.tensors is not None and function is _Made.PARAMETER:
            return arguments[0]
        return Foreign(_name(function))

    def do_newobj(self, _: Any) -> None:
        self.stack.pop()
        self.instance()

    def do_newobj_ex(self, _: Any) -> None:
        del self.stack[-2:]
        self.instance()

    def instance(self) -> None:
        kind = self.stack.pop()
        self.push(OrderedDict() if kind is _Made.ORDERED_DICT else Foreign(_name(kind)))

    def do_inst(self, words: str) -> None:
        self.since_mark()
        self.push(Foreign(words.replace(" ", ".")))

    def do_obj(self, _: Any) -> None:
        items = self.since_mark()
        self.push(Foreign(_name(items[0])))

    def do_build(self, _: Any) -> None:
        """Of a state dict, what its modules say of themselves beside their tensors; of anything else nothing."""
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is OrderedDict and isinstance(state, dict) and isinstance(state.get("_metadata"), dict):
            vars(made)["_metadata"] = state["_metadata"]

    def do_persid(self, _: Any) -> None:
        raise ValueError("a storage without a description")

    def do_binpersid(self, _: Any) -> None:
        identity = self.stack.pop()
        if type(identity) is tuple and len(identity) > 1 and identity[0] == "module":
            self.push(Foreign(_name(identity[1])))  # a network's class with its source, as older files have it
        elif type(identity) is tuple and len(identity) > 1 and isinstance(identity[1], Foreign):
            self.push(identity[1])  # numbers of a type that no network here has: complex, quantized
        else:
            self.push(storage_of(identity))

    def do_ext1(self, _: Any) -> None:
        self.push(Foreign("a registered extension"))

    do_ext2 = do_ext4 = do_ext1

    def do_next_buffer(self, _: Any) -> None:
        self.push(Foreign("a buffer outside the file"))


def _name(kind: Any) -> str:
    if isinstance(kind, Foreign):
        return kind.name
    return next((name for name, value in _NAMES.items() if value is kind), type(kind).__name__)


def first_foreign(path: Path) -> str | None:
    """What a bare pickle, which is no checkpoint of torch's, would run first; None where it is damaged or harmless."""
    made: list[str] = []

    class Noting(_Machine):
        def find(self, module: str, name: str) -> None:
            if module.partition(".")[0] not in ("torch", "collections"):
                made.append(f"{module}.{name}")
            super().find(module, name)

    with contextlib.suppress(Exception), path.open("rb") as file:
        _run(file, Noting(None))
    return made[0] if made else None


def is_program(path: Path) -> bool:
    """Whether a file is one whole pickle and no more, as `pickle.dump` writes it."""
    try:
        with path.open("rb") as file:
            _run(file, _Machine(None))
            return not file.read(1)
    except Exception:
        return False
