"""The outputs of chosen operations on a batch, without gradients: what remains of each is for the caller to keep."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from vertebra.graph.ir import Graph
from vertebra.graph.rows import rows_by_node
from vertebra.graph.trace import OperationMode

from .operation_values import require_operations, run_as_traced


def visit_outputs(
    network: nn.Module, graph: Graph, images: Tensor, rows: Collection[int], visit: Callable[[int, Tensor], None]
) -> None:
    """Run a network on images (N, C, H, W), and call `visit` with each of these rows' indices and its output.

    The output may be overwritten afterwards by an in-place operation. The network is in eval mode meanwhile.

    Raises:
        VertebraError: other operations run than on the meta device, where the graph was recorded.
    """
    index_of = rows_by_node(graph)
    wanted = {at: index_of[id(node)] for at, node in enumerate(graph.nodes) if index_of.get(id(node)) in rows}
    watch = _Watch(wanted, visit)
    with run_as_traced(network):
        images = images.contiguous().clone()  # the network may write into it
        with watch:
            network(images)
    require_operations(watch.count, graph)


class _Watch(OperationMode):  # type: ignore[no-untyped-call]
    """Counts operations, and shows the outputs of some."""

    def __init__(self, wanted: dict[int, int], visit: Callable[[int, Tensor], None]) -> None:
        super().__init__()
        self.count = 0
        self._wanted, self._visit = wanted, visit

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        row = self._wanted.get(self.count)
        self.count += 1
        if row is not None:
            self._visit(row, made[0] if isinstance(made, tuple | list) else made)
        return made
