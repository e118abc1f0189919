"""Average pooling before a 1×1 convolution instead of behind it, as in DenseNet's transitions.

Both are linear, one over channels and one over positions, so their order changes results by rounding alone. The
convolution then has a quarter of the products for 2×2 pooling.
"""

from __future__ import annotations

from torch import fx, nn


def pool_first(graph_module: fx.GraphModule) -> None:
    """Exchange every 1×1 convolution and the average pooling behind it, where nothing else reads the convolution."""
    graph = graph_module.graph
    for pool in list(graph.nodes):
        conv = pool.args[0] if pool.op == "call_module" and pool.args else None
        if (
            not isinstance(conv, fx.Node)
            or conv.op != "call_module"
            or len(conv.users) > 1
            or not _is_pointwise(graph_module.get_submodule(str(conv.target)))
            or not _is_average(graph_module.get_submodule(pool.target))
        ):
            continue
        with graph.inserting_before(pool):
            pooled = graph.call_module(pool.target, conv.args, conv.kwargs)
            new = graph.call_module(str(conv.target), (pooled,))
        pool.replace_all_uses_with(new)
        graph.erase_node(pool)
        graph.erase_node(conv)


def _is_pointwise(layer: nn.Module) -> bool:
    """Whether each output is made of one position; a bias is the same before and behind a mean."""
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size == layer.stride == (1, 1)
        and layer.padding in ((0, 0), "same", "valid")
    )


def _is_average(layer: nn.Module) -> bool:
    """Whether each output is the mean of as many values, and there are fewer outputs than inputs."""
    return (
        type(layer) is nn.AvgPool2d
        and _pair(layer.padding) == (0, 0)
        and min(_pair(layer.stride)) > 1
        and not layer.ceil_mode
        and layer.divisor_override is None
    )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
