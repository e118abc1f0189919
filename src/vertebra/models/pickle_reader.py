"""Pickles as data: Python's unpickler with every opcode that would import, call, build or hash made inert.

What a program would import or call becomes a `InertObject` that remembers its name and no more. So a checkpoint can be
read that holds a namespace, a NumPy scalar or a configuration beside its tensors, whatever these would do if they were
unpickled. Tensors alone are made.

`torch.load` with an unpickler of one's own does not do: Python's fast unpickler cannot be kept from hashing tuples,
which ends the process where they are nested deeply enough, nor from `Tensor.__setstate__`, which can enlarge a storage;
and `TORCH_FORCE_WEIGHTS_ONLY_LOAD=1` makes it an error.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vertebra.units import size as shown_size

_MAX_STEPS = 1_000_000  # of a program, each of which can make an object; 300 layers take 30,000
_MAX_REPEATED = 1 << 26  # bytes of all tensors that have more numbers than their storages (`expand`)
_KEYS = (str, int, float, bool, bytes, type(None))
_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

Storage = Callable[[str, torch.dtype, int], Tensor]  # key, type, number of elements → the elements, one-dimensional


class UnreadableError(Exception):
    """The file holds something that no network here can take.

    Args:
        what: what it is, after the file's name.
        advice: what to do then, if not what is said of all such files.
    """


class InertObject:
    """Something that only running code could make: a class, a function, or what one of them would have given."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name  # module and name, as the program asks for them


class _CountedDispatch(dict[int, Any]):
    """The unpickler's methods by opcode; it looks one up for each step."""

    steps = 0

    def __getitem__(self, opcode: int) -> Any:
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise UnreadableError(f"holds more than {_MAX_STEPS:,} other things beside its tensors")
        return super().__getitem__(opcode)


class PickleReader(pickle._Unpickler):
    """Reads one pickle from a file: `load` gives its object.

    Args:
        file: at the pickle; `load` leaves it at what follows.
        storage: gives the elements of a storage; without it there are none.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: Any, storage: Storage | None = None) -> None:
        super().__init__(file, encoding="utf-8")
        self.names: list[str] = []  # all that it would import
        # A program has at most as many steps as bytes, and counting them takes a fifth of the time.
        if not isinstance(file, io.BytesIO) or file.getbuffer().nbytes > _MAX_STEPS:
            self.dispatch = _CountedDispatch(self.dispatch)  # type: ignore[misc]
        self._storage = storage
        self._storages: dict[str, Tensor] = {}
        self._repeated = 0

    def find_class(self, module: str, name: str) -> Any:
        """A storage's type, or a `InertObject`: nothing that could be called is ever on the stack."""
        self.names.append(f"{module}.{name}")
        return _TYPES.get(name, InertObject(self.names[-1])) if module == "torch" else InertObject(self.names[-1])

    def get_extension(self, _: int) -> None:
        self.append(InertObject("a registered extension"))

    def _instantiate(self, kind: Any, _: list[Any]) -> None:  # INST and OBJ
        self.append(InertObject(_name(kind)))

    def load_newobj(self) -> None:
        self.stack.pop()
        kind = _name(self.stack.pop())
        self.append(OrderedDict() if kind == "collections.OrderedDict" else InertObject(kind))

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.append(self._call(_name(function), arguments))

    def _call(self, function: str, arguments: Any) -> Any:
        if type(arguments) is not tuple:
            raise ValueError("arguments that are no tuple")
        match function:
            case "collections.OrderedDict":
                made: OrderedDict[Any, Any] = OrderedDict()
                _fill(made, [part for pair in (arguments[0] if arguments else []) for part in pair])
                return made
            case "collections.defaultdict":
                return {}  # what it would call for a missing key stays closed
            case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" if arguments:
                return arguments[0] if isinstance(arguments[0], InertObject) else self._tensor(*arguments)
            case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
                return arguments[0]
            case "torch._tensor._rebuild_from_type_v2" if type(arguments[2]) is tuple:
                return self._call(_name(arguments[0]), arguments[2])  # the plain tensor in one of a class of one's own
        return InertObject(function)

    def load_build(self) -> None:
        """Of a state dict, what its modules say of themselves beside their tensors; of anything else nothing."""
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is OrderedDict and isinstance(state, dict) and isinstance(state.get("_metadata"), dict):
            vars(made)["_metadata"] = state["_metadata"]

    def load_binpersid(self) -> None:
        identity = self.stack.pop()
        kind, dtype, *rest = identity
        if isinstance(dtype, InertObject):
            self.append(dtype)  # a network's class with its source, in older files; or complex or quantized elements
            return
        key, _, numel, *view = rest  # the second is the device that it was saved from
        # A view is a part of another storage (torch < 0.4).
        if self._storage is None or kind != "storage" or view not in ([], [None]):
            raise UnreadableError
        if type(dtype) is not torch.dtype or type(key) is not str or type(numel) is not int or numel < 0:
            raise UnreadableError
        if key not in self._storages:
            self._storages[key] = self._storage(key, dtype, numel)
        if self._storages[key].dtype != dtype:
            raise UnreadableError
        self.append(self._storages[key])

    def _tensor(self, elements: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        """A tensor that lies wholly inside its storage.

        Raises:
            UnreadableError: it does not.
        """
        if type(elements) is not Tensor:
            raise UnreadableError
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        # Torch refuses negative numbers, but enlarges a storage for a tensor that reaches beyond it.
        if last >= elements.numel() and 0 not in size:
            raise UnreadableError
        if (count := math.prod(size)) > elements.numel():
            self._repeated += count * elements.itemsize
            if self._repeated > _MAX_REPEATED:
                raise UnreadableError(f"has tensors of {shown_size(self._repeated)} that repeat the same few numbers")
        whole = torch.empty(0, dtype=elements.dtype, device=elements.device)
        return whole.set_(elements.untyped_storage(), offset, size, stride)

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(items)

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        _fill(self.stack[-1], items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _fill(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _fill(self.stack[-1], items)

    def load_empty_set(self) -> None:
        self.append(InertObject("builtins.set"))  # hashing what is in it could take for ever

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.append(InertObject("builtins.frozenset"))

    def load_additems(self) -> None:
        self.pop_mark()

    def load_bytearray8(self) -> None:
        # Python's own allocates as many bytes as the program claims.
        self.load_binbytes8()  # type: ignore[attr-defined]

    dispatch = pickle._Unpickler.dispatch | {  # type: ignore[assignment]
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.REDUCE[0]: load_reduce,
        pickle.BUILD[0]: load_build,
        pickle.BINPERSID[0]: load_binpersid,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.EMPTY_SET[0]: load_empty_set,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.ADDITEMS[0]: load_additems,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def _fill(target: Any, items: list[Any]) -> None:
    if type(target) in (dict, OrderedDict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys would be hashed, and tuples can be nested so deeply that this ends the process.
            target[key if type(key) in _KEYS else InertObject("a key")] = value


def _name(kind: Any) -> str:
    return kind.name if isinstance(kind, InertObject) else type(kind).__name__
