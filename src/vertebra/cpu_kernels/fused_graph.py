"""Replace a network's batch norms, convolutions and squeeze-excitation by operations of this package."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from vertebra.models.layers import SqueezeExcitation

from . import conv1x1, conv3x3, depthwise
from .batch_norm import ACTIVATIONS, BatchNormActivation, ConcatBatchNormActivation, can_fuse, shared_statistics
from .compiled_functions import library
from .conv1x1 import Conv1x1, Conv1x1WithStatistics
from .conv3x3 import Conv3x3
from .depthwise import DepthwiseConv
from .pooling_order import pool_first
from .squeeze_excitation import FusedSqueezeExcitation


def fuse(network: nn.Module) -> fx.GraphModule:
    """Return a module that computes what `network` does in training, and shares its parameters and buffers.

    Call `network.train()` before, with frozen stages in evaluation mode: what depends on it is fixed. Outputs and
    gradients differ from the network's by the rounding of float32.

    Raises:
        KernelError: the kernels cannot be compiled.
    """
    library()
    graph_module = fx.GraphModule(network, _Tracer().trace(network))
    pool_first(graph_module)
    for node in list(graph_module.graph.nodes):
        if node.op != "call_module":
            continue
        layer = graph_module.get_submodule(node.target)
        if can_fuse(layer):
            _fuse_norm(graph_module, node, layer)
        elif depthwise.can_replace(layer):
            _replace(graph_module, node, DepthwiseConv(layer))
        elif conv1x1.can_replace(layer):
            _replace(graph_module, node, Conv1x1(layer))
        elif conv3x3.can_replace(layer):
            _replace(graph_module, node, Conv3x3(layer))
        elif isinstance(layer, SqueezeExcitation):
            _replace(graph_module, node, FusedSqueezeExcitation(layer))
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


class _Tracer(fx.Tracer):
    """Keeps squeeze-excitation whole, and the parts of DenseNets that compute again what they do not keep."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one operation of the graph."""
        kept_whole = type(m) is SqueezeExcitation or getattr(m, "memory_efficient", False)
        is_block = isinstance(m, nn.ModuleDict) and any(
            getattr(layer, "memory_efficient", False) for layer in m.values()
        )
        return kept_whole or is_block or super().is_leaf_module(m, module_qualified_name)


def _replace(graph_module: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    with graph_module.graph.inserting_before(node):
        new = _call(graph_module, f"{node.name}_kernel", layer, node.args)
    node.replace_all_uses_with(new)
    graph_module.graph.erase_node(node)


def _fuse_norm(graph_module: fx.GraphModule, norm: fx.Node, layer: nn.BatchNorm2d) -> None:
    """Fuse norm → activation, norm → add, norm → add → ReLU, or the norm alone; the first two with a concatenation."""
    fused = [norm]
    activation: nn.Module = nn.Identity()
    shortcut: fx.Node | None = None
    user = _only_user(norm)
    if user is not None and (found := _activation(graph_module, user)) is not None:
        fused, activation = [norm, user], found
    elif user is not None and user.target in (operator.add, operator.iadd) and not user.kwargs:
        other = [argument for argument in user.args if argument is not norm]
        if len(other) == 1 and isinstance(other[0], fx.Node):
            fused, shortcut = [norm, user], other[0]
            last = _only_user(user)
            if last is not None and isinstance(found := _activation(graph_module, last), nn.ReLU):
                fused, activation = [norm, user, last], found
    concatenation = _concatenation(norm) if shortcut is None and layer.training else None
    if concatenation is not None:
        fused = [concatenation, *fused]
        pieces: Any = concatenation.args[0]
        arguments: tuple[Any, ...] = pieces, [_statistics(graph_module.graph, piece) for piece in pieces]
        operation: nn.Module = ConcatBatchNormActivation(layer, activation)
    else:
        x, statistics = _with_statistics(graph_module, norm.args[0]) if layer.training else (norm.args[0], None)
        arguments = x, shortcut, statistics
        operation = BatchNormActivation(layer, activation)
    with graph_module.graph.inserting_before(fused[-1]):
        new = _call(graph_module, f"{norm.name}_fused", operation, arguments)
    fused[-1].replace_all_uses_with(new)
    for node in reversed(fused):
        graph_module.graph.erase_node(node)


def _with_statistics(graph_module: fx.GraphModule, node: Any) -> tuple[Any, fx.Node | None]:
    """A map and its statistics, if the convolution that makes it can give them."""
    layer = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if type(layer) is not Conv1x1:
        return node, None
    graph = graph_module.graph
    with graph.inserting_before(node):
        both = _call(graph_module, f"{node.name}_statistics", Conv1x1WithStatistics(layer.layer), node.args)
        output, statistics = (graph.call_function(operator.getitem, (both, part)) for part in range(2))
    node.replace_all_uses_with(output)
    graph.erase_node(node)
    return output, statistics


def _concatenation(norm: fx.Node) -> fx.Node | None:
    """The concatenation along the channels that a norm alone reads."""
    node = norm.args[0]
    if not isinstance(node, fx.Node) or node.target is not torch.cat or _only_user(node) is not norm:
        return None
    if len(node.args) != 2 or node.args[1] != 1 or node.kwargs or not isinstance(node.args[0], (list, tuple)):
        return None
    return node if all(isinstance(piece, fx.Node) for piece in node.args[0]) else None


def _statistics(graph: fx.Graph, piece: fx.Node) -> fx.Node:
    """The statistics of a map, computed once for all norms that read it."""
    for user in piece.users:
        if user.target is shared_statistics:
            return user
    with graph.inserting_after(piece):
        return graph.call_function(shared_statistics, (piece,))


def _call(graph_module: fx.GraphModule, name: str, layer: nn.Module, arguments: tuple[Any, ...]) -> fx.Node:
    graph_module.add_submodule(name, layer)
    return graph_module.graph.call_module(name, arguments)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _activation(graph_module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    if node.op == "call_function" and node.target is F.relu:
        return nn.ReLU()
    if node.op != "call_module":
        return None
    layer = graph_module.get_submodule(str(node.target))
    return layer if type(layer) in ACTIVATIONS and not isinstance(layer, nn.Identity) else None
