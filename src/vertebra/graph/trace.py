"""The graph of a network that runs on shapes alone.

A copy of the network on the meta device (`meta_copy`) is run once under a dispatch mode that records every ATen
operation. Hooks tell which module is running. That takes tenths of a second where `torch.export` takes ten, and works
for whatever runs on the meta device; the operations are the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from vertebra.errors import UsageError, VertebraError, first_line
from vertebra.models import ConvNet
from vertebra.models.meta_copy import META

from . import ir
from .ir import Graph, Module, Node, Storage
from .shapes import FIRST_OPERAND, RULES, Indices, Shape


class _Schema:
    """What is asked of an operation again and again, and takes torch long to tell."""

    def __init__(self, func: Any) -> None:
        schema = func._schema
        # As in `aten::convolution`, without the namespace and without the underscore of an in-place operation.
        self.op = str(schema.name).partition("::")[2].rstrip("_") or str(schema.name)
        self.name = str(func)
        self.in_place = bool(schema.is_mutable)
        self.is_pointwise = torch.Tag.pointwise in func.tags
        self.arguments = [(argument.name, argument.default_value) for argument in schema.arguments]
        self.rule = RULES.get(self.name.removeprefix("aten."))

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by their names, with defaults filled in."""
        found = {name: kwargs.get(name, default) for name, default in self.arguments[len(args) :]}
        return dict(zip((name for name, _ in self.arguments), args, strict=False)) | found


_schema = cache(_Schema)
_dtype = cache(lambda dtype: (str(dtype).removeprefix("torch."), dtype.itemsize))


class Recorder(TorchDispatchMode):
    """Writes down what runs while it is active. Tensors of other devices are taken for their shapes."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would wrap __torch_dispatch__ to keep its compiler out, and for that import the compiler: 3 s.
        return False

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[Node] = []
        self.storages: list[Storage] = []
        self._index: dict[int, int] = {}  # address of a storage -> index into storages
        # A weak reference to a storage keeps its address from being used again, and tells when it is gone.
        self._alive: dict[int, StorageWeakRef] = {}
        self._path: list[str] = [""]
        self._substitutes: dict[int, tuple[Tensor, Tensor]] = {}
        named = [*network.named_parameters(), *network.named_buffers()]
        for path, tensor in named:
            ref = self._refer(tensor)
            self.storages[ref.storage].path = path
            self.storages[ref.storage].parameters = tensor.numel() if isinstance(tensor, nn.Parameter) else 0
            self._alive.pop(ref.storage, None)  # the network holds it
        self._hooks = []
        for path, module in network.named_modules():
            self._hooks.append(module.register_forward_pre_hook(partial(self._enter, path)))
            self._hooks.append(module.register_forward_hook(self._leave, always_call=True))

    def _enter(self, path: str, module: nn.Module, args: Any) -> None:
        self._path.append(path)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._path.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = {key: META if isinstance(value, torch.device) else value for key, value in (kwargs or {}).items()}
        args, kwargs = _mapped((args, kwargs), self._on_meta)
        self._bury()
        out = by_rule(func, args, kwargs)
        if out is None:
            out = self._run(func, args, kwargs)
        inputs: list[ir.Tensor] = []
        outputs: list[ir.Tensor] = []
        args, kwargs = _mapped((args, kwargs), partial(self._noted, inputs))
        _mapped(out, partial(self._noted, outputs))
        schema = _schema(func)
        unique = tuple(dict.fromkeys(outputs))
        self.nodes.append(
            Node(
                schema.op,
                schema.named(args, kwargs),
                tuple(dict.fromkeys(inputs)),
                unique,
                self._path[-1],
                schema.name,
                schema.in_place,
                schema.is_pointwise,
                partial(_flops, func, args, kwargs, unique),
            )
        )
        return out

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return func(*args, **kwargs)
        except Exception as error:
            # Not every use of such an operation depends on values: an index of whole numbers has a shape.
            if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
                raise _data_dependent(func, self._path[-1]) from error
            raise

    def graph(self, inputs: Any, outputs: Any) -> Graph:
        """What was written down, for a run from these inputs to these outputs."""
        for hook in self._hooks:
            hook.remove()
        self._bury()
        refs = [
            tuple(self._refer(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_meta)
            for tree in (inputs, outputs)
        ]
        return Graph(self.nodes, self.storages, refs[0], refs[1])

    def index_of(self, tensor: Tensor) -> int:
        """Where its storage is in the trace's list."""
        return self._refer(tensor).storage

    def _on_meta(self, value: Tensor) -> Tensor:
        """A constant of the network that lies elsewhere (a tensor in a list, say) → one of its shape on meta."""
        if value.is_meta:
            return value
        if id(value) not in self._substitutes:
            self._substitutes[id(value)] = (value, torch.empty_like(value, device=META))
        return self._substitutes[id(value)][1]

    def _noted(self, found: list[ir.Tensor], tensor: Tensor) -> ir.Tensor:
        found.append(self._refer(tensor))
        return found[-1]

    def _refer(self, tensor: Tensor) -> ir.Tensor:
        storage = tensor.untyped_storage()
        address = storage._cdata
        index = self._index.get(address)
        if index is None:
            index = self._index[address] = len(self.storages)
            self._alive[index] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            self.storages.append(Storage(storage.nbytes(), len(self.nodes)))
        elements = tensor.numel()
        if elements and not tensor.is_contiguous():
            for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
                elements //= size if stride == 0 else 1
        layout = (int(tensor.storage_offset()), *tensor.stride())
        return ir.Tensor(index, tuple(tensor.shape), *_dtype(tensor.dtype), elements, layout)

    def _bury(self) -> None:
        """Note the storages that have been freed."""
        gone = [i for i, reference in self._alive.items() if reference.expired()]  # type: ignore[no-untyped-call]
        for index in gone:
            self.storages[index].freed = len(self.nodes)
            # The address may now be used again, by another storage, so the reference goes at the same time.
            reference = self._alive.pop(index)
            del self._index[reference.cdata]


def by_rule(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The results of an operation on the meta device by a rule of `shapes`; None where it has none for this case."""
    schema = _schema(func)
    shapes = None if schema.rule is None else schema.rule(schema.named(args, kwargs))
    if not shapes:
        return args[0] if shapes is FIRST_OPERAND else None
    first = args[0][0] if isinstance(args[0], list | tuple) else args[0]

    def made(shape: Shape) -> Tensor:
        # Not empty_like or new_empty: on the meta device these too are written in Python.
        return torch.empty(shape, dtype=torch.int64 if isinstance(shape, Indices) else first.dtype, device=META)

    return made(shapes[0]) if len(shapes) == 1 else tuple(map(made, shapes))


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: tuple[ir.Tensor, ...]) -> int | None:
    """By torch's own formula, which it has for attention and the like."""
    from torch.utils.flop_counter import flop_registry

    formula = flop_registry.get(func.overloadpacket)
    if formula is None:
        return None
    args, kwargs = tree_map_only(ir.Tensor, lambda tensor: torch.Size(tensor.shape), (args, kwargs))
    return int(formula(*args, **kwargs, out_shape=tuple(out.shape for out in outputs)))


def _mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """As torch's tree_map, for arguments that nest in lists and dicts at most: a whole trace is 1.4 times as fast."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(item, function) for item in value)
    if isinstance(value, dict):
        return {name: _mapped(item, function) for name, item in value.items()}
    return value


def _data_dependent(func: Any, path: str) -> UsageError:
    where = f"in module {path!r}" if path else "in the network's own forward()"
    name = func._schema.name.replace("::", ".")
    return UsageError(
        f"the network's course depends on the values of its tensors: {name} {where} asks for them, and anatomy knows "
        "shapes only. Replace the branch (torch.where instead of if, a mask instead of a selection, an integer "
        "argument instead of .item()), or take the parts before and after it apart on their own."
    )


def run(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Graph:
    """The graph of `network(*args, **kwargs)`, all on the meta device."""
    recorder = Recorder(network)
    with recorder, torch.no_grad():
        output = call(network, args, kwargs)
    graph = recorder.graph((args, kwargs), output)
    graph.modules = dict(_modules("", network))
    if isinstance(network, ConvNet):
        graph.stages = {path: stage.name for stage in network.stages for path in stage.modules}
    return graph


def _modules(path: str, network: nn.Module) -> Iterator[tuple[str, Module]]:
    prefix = f"{path}." if path else ""
    children = [(prefix + name, child) for name, child in network.named_children()]
    yield (
        path,
        Module(
            type=type(network).__name__,
            is_list=type(network) is nn.Sequential or isinstance(network, (nn.ModuleList, nn.ModuleDict)),
            children=tuple(name for name, _ in children),
            parameters=tuple(
                (prefix + name, id(value), value.numel()) for name, value in network.named_parameters(recurse=False)
            ),
        ),
    )
    for name, child in children:
        yield from _modules(name, child)


def call(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The network's output, or a `UsageError` that says what it was given and what to change."""
    try:
        with META:
            return network(*args, **kwargs)
    except VertebraError:
        raise
    except Exception as error:
        name, given = type(network).__name__, describe(args, kwargs)
        if isinstance(error, NotImplementedError) and "meta" in str(error).lower():
            raise UsageError(
                f"{name} cannot run on shapes alone: {first_line(error)}. An operator of your own needs a shape rule: "
                "torch.library.register_fake."
            ) from error
        takes = ", ".join(map(str, inspect.signature(network.forward).parameters.values()))
        raise UsageError(
            f"{name} does not take {given}: {type(error).__name__}: {first_line(error)}. Its forward() takes "
            f"({takes}); give another input_size=, or inputs=, a tensor, a tuple for several or a dict by name."
        ) from error


def describe(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The inputs in words: `"float32 1 × 3 × 224 × 224"`."""

    def one(value: Any) -> str:
        if not isinstance(value, Tensor):
            return type(value).__name__
        return f"{str(value.dtype).removeprefix('torch.')} {' × '.join(map(str, value.shape)) or 'scalar'}"

    words = [one(leaf) for leaf in tree_leaves(list(args))]
    words += [f"{name}={one(leaf)}" for name, value in kwargs.items() for leaf in tree_leaves(value)]
    return ", ".join(words) or "no input"
