"""Traces a network on the meta device into a `Graph`.

A copy of the network (`meta_copy`) runs once under a dispatch mode that records every ATen operation, and hooks record
which module is running. This takes tenths of a second where `torch.export` takes 10 s, gives the same operations, and
works for every network that runs on the meta device.
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


class Operation:
    """Properties of an ATen operator, cached because torch computes them slowly."""

    def __init__(self, func: Any) -> None:
        schema = func._schema
        # `aten::relu_` → `relu`: without namespace and the underscore of in-place operators.
        self.op = str(schema.name).partition("::")[2].rstrip("_") or str(schema.name)
        self.name = str(func)
        self.in_place = bool(schema.is_mutable)
        self.is_pointwise = torch.Tag.pointwise in func.tags
        self.arguments = [(argument.name, argument.default_value) for argument in schema.arguments]
        self.rule = RULES.get(self.name.removeprefix("aten."))

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, with defaults."""
        found = {name: kwargs.get(name, default) for name, default in self.arguments[len(args) :]}
        return dict(zip((name for name, _ in self.arguments), args, strict=False)) | found


operation_of = cache(Operation)
_PLAIN = frozenset({int, float, bool, str, type(None)})  # most arguments: no call for each
_dtype = cache(lambda dtype: (str(dtype).removeprefix("torch."), dtype.itemsize))


class OperationMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that sees each ATen operation, and does not import torch's compiler."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch wraps __torch_dispatch__ to disable its compiler, which imports the compiler: 3 s.
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]


class Recorder(OperationMode):  # type: ignore[no-untyped-call]
    """Records every operation while it is active. Tensors of other devices are replaced by meta tensors.

    To know the module of each operation it puts hooks on all of them. With `with_modules=False` it does not, and so
    records what networks do that compute several layers at once where nothing watches these.
    """

    def __init__(self, network: nn.Module, with_modules: bool = True) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.storages: list[Storage] = []
        self._index: dict[int, int] = {}  # address of a storage -> index into storages
        # A weak reference keeps the address of a storage from being reused, and shows when the storage is freed.
        self._references: dict[int, StorageWeakRef] = {}
        self._path: list[str] = [""]
        self._substitutes: dict[int, tuple[Tensor, Tensor]] = {}
        named = [*network.named_parameters(), *network.named_buffers()]
        for path, tensor in named:
            ref = self._to_ir(tensor)
            self.storages[ref.storage].path = path
            self.storages[ref.storage].parameters = tensor.numel() if isinstance(tensor, nn.Parameter) else 0
            self._references.pop(ref.storage, None)  # a weight is never freed
        self._hooks = []
        for path, module in network.named_modules() if with_modules else ():
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
        args, kwargs = _map_tensors((args, kwargs), self._on_meta)
        self._mark_freed()
        out = apply_shape_rule(func, args, kwargs)
        if out is None:
            out = self._run(func, args, kwargs)
        inputs: list[ir.Tensor] = []
        outputs: list[ir.Tensor] = []
        args, kwargs = _map_tensors((args, kwargs), partial(self._record, inputs))
        _map_tensors(out, partial(self._record, outputs))
        operation = operation_of(func)
        unique = tuple(dict.fromkeys(outputs))
        self.nodes.append(
            Node(
                operation.op,
                operation.named(args, kwargs),
                tuple(dict.fromkeys(inputs)),
                unique,
                self._path[-1],
                operation.name,
                operation.in_place,
                operation.is_pointwise,
                partial(_flops, func, args, kwargs, unique),
            )
        )
        return out

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return func(*args, **kwargs)
        except Exception as error:
            # Only some uses of such an operator depend on values: indexing by integers does not.
            if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
                raise _data_dependent(func, self._path[-1]) from error
            raise

    def graph(self, inputs: Any, outputs: Any) -> Graph:
        """The recorded graph, with these inputs and outputs."""
        for hook in self._hooks:
            hook.remove()
        self._mark_freed()
        refs = [
            tuple(self._to_ir(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_meta)
            for tree in (inputs, outputs)
        ]
        return Graph(self.nodes, self.storages, refs[0], refs[1])

    def storage_index(self, tensor: Tensor) -> int:
        """Index of the tensor's storage in `storages`."""
        return self._to_ir(tensor).storage

    def _on_meta(self, value: Tensor) -> Tensor:
        """Replace a constant on another device, such as a tensor in a list, by a meta tensor."""
        if value.is_meta:
            return value
        if id(value) not in self._substitutes:
            self._substitutes[id(value)] = (value, torch.empty_like(value, device=META))
        return self._substitutes[id(value)][1]

    def _record(self, found: list[ir.Tensor], tensor: Tensor) -> ir.Tensor:
        found.append(self._to_ir(tensor))
        return found[-1]

    def _to_ir(self, tensor: Tensor) -> ir.Tensor:
        storage = tensor.untyped_storage()
        address = storage._cdata
        index = self._index.get(address)
        if index is None:
            index = self._index[address] = len(self.storages)
            self._references[index] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            self.storages.append(Storage(storage.nbytes(), len(self.nodes)))
        elements = tensor.numel()
        if elements and not tensor.is_contiguous():
            for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
                elements //= size if stride == 0 else 1
        layout = (int(tensor.storage_offset()), *tensor.stride())
        return ir.Tensor(index, tuple(tensor.shape), *_dtype(tensor.dtype), elements, layout)

    def _mark_freed(self) -> None:
        gone = [i for i, reference in self._references.items() if reference.expired()]  # type: ignore[no-untyped-call]
        for index in gone:
            self.storages[index].freed = len(self.nodes)
            # Another storage may now reuse the address, so drop the reference too.
            reference = self._references.pop(index)
            del self._index[reference.cdata]


def apply_shape_rule(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The meta outputs of an operation by a rule of `shapes`; None if no rule covers this case."""
    operation = operation_of(func)
    shapes = None if operation.rule is None else operation.rule(operation.named(args, kwargs))
    if not shapes:
        return args[0] if shapes is FIRST_OPERAND else None
    first = args[0][0] if isinstance(args[0], list | tuple) else args[0]

    def empty(shape: Shape) -> Tensor:
        # Not empty_like or new_empty, which are written in Python for the meta device.
        return torch.empty(shape, dtype=torch.int64 if isinstance(shape, Indices) else first.dtype, device=META)

    return empty(shapes[0]) if len(shapes) == 1 else tuple(map(empty, shapes))


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: tuple[ir.Tensor, ...]) -> int | None:
    """FLOPs by torch's formula, which it has for attention and others; None without one."""
    from torch.utils.flop_counter import flop_registry

    formula = flop_registry.get(func.overloadpacket)
    if formula is None:
        return None
    args, kwargs = tree_map_only(ir.Tensor, lambda tensor: torch.Size(tensor.shape), (args, kwargs))
    return int(formula(*args, **kwargs, out_shape=tuple(out.shape for out in outputs)))


def _map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """tree_map for tensors in lists, tuples and dicts; makes a whole trace 1.4 times as fast as torch's."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return type(value)([item if type(item) in _PLAIN else _map_tensors(item, function) for item in value])
    if isinstance(value, dict):
        return {name: _map_tensors(item, function) for name, item in value.items()}
    return value


def _data_dependent(func: Any, path: str) -> UsageError:
    where = f"in module {path!r}" if path else "in the network's own forward()"
    name = func._schema.name.replace("::", ".")
    return UsageError(
        f"the operations of the network depend on values of its tensors: {name} {where} reads them, and the network "
        "is analysed on shapes alone. Replace the branch (torch.where instead of if, a mask instead of a selection, an "
        "integer argument instead of .item()), or analyse the parts before and after it separately."
    )


def trace_network(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Graph:
    """Trace `network(*args, **kwargs)`, all on the meta device."""
    recorder = Recorder(network)
    with recorder, torch.no_grad():
        output = call_network(network, args, kwargs)
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


def call_network(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call the network on the meta device; a failure is raised as a `UsageError` that shows its inputs."""
    try:
        with META:
            return network(*args, **kwargs)
    except VertebraError:
        raise
    except Exception as error:
        name, given = type(network).__name__, describe_inputs(args, kwargs)
        if isinstance(error, NotImplementedError) and "meta" in str(error).lower():
            raise UsageError(
                f"{name} cannot run on the meta device: {first_line(error)}. A custom operator needs a shape rule: "
                "torch.library.register_fake."
            ) from error
        takes = ", ".join(map(str, inspect.signature(network.forward).parameters.values()))
        raise UsageError(
            f"{name} does not take {given}: {type(error).__name__}: {first_line(error)}. Its forward() takes "
            f"({takes}); set input_size=, or inputs= to a tensor, a tuple of tensors or a dict by name."
        ) from error


def describe_inputs(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The inputs as text: `"float32 1 × 3 × 224 × 224"`."""

    def one(value: Any) -> str:
        if not isinstance(value, Tensor):
            return type(value).__name__
        return f"{str(value.dtype).removeprefix('torch.')} {' × '.join(map(str, value.shape)) or 'scalar'}"

    words = [one(leaf) for leaf in tree_leaves(list(args))]
    words += [f"{name}={one(leaf)}" for name, value in kwargs.items() for leaf in tree_leaves(value)]
    return ", ".join(words) or "no input"
