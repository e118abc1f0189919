"""The stage, block and name of each operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

from .ir import Graph

BEFORE, AFTER = "input", "classifier"  # operations outside of the stages that a network defines
TOP = "(top)"  # operations of any other network outside of its children


class StageNames:
    """The stages and blocks of a network.

    Vertebra's networks define their stages (`Graph.stages`). Otherwise the children of the network are its stages; one
    with more than three quarters of the operations is replaced by its own children. A block is the outermost module of
    a stage that is not a list of modules.
    """

    def __init__(self, graph: Graph, running: Sequence[str]) -> None:
        """`running` has the module path of each operation, in order."""
        self._modules = graph.modules
        self._has_stages = graph.stages is not None
        # module path -> stage
        self._prefixes = {p: p for p in _default_stages(graph, running)} if graph.stages is None else graph.stages
        self._outside = BEFORE
        # Cached, since many rows are in the same module.
        self.block, self.name, self._prefix = cache(self._block), cache(self._name), cache(self._find_prefix)

    def stage(self, path: str) -> str:
        """The stage of a module. Call it for each operation in order: it tracks whether a stage has begun."""
        prefix = self._prefix(path)
        if prefix is not None:
            self._outside = AFTER
            return self._prefixes[prefix]
        return self._outside if self._has_stages else path or TOP

    def _block(self, path: str) -> str:
        prefix = self._prefix(path)
        parts = path.split(".")
        start = 1 if prefix is None else prefix.count(".") + 1
        for length in range(start, len(parts) + 1):
            candidate = ".".join(parts[:length])
            if not self._modules[candidate].is_list:
                return candidate or TOP
        return path or TOP

    def _name(self, path: str, op: str, has_weights: bool) -> str:
        """The module's path if the operation is that module's own, else the path with the operation appended."""
        module = self._modules[path]
        is_leaf = path and not module.children
        return path if is_leaf and (has_weights or not module.parameters) else f"{path}.{op}".lstrip(".")

    def _find_prefix(self, path: str) -> str | None:
        return next((prefix for prefix in _ancestors(path) if prefix in self._prefixes), None)


def _ancestors(path: str) -> Iterator[str]:
    """The path itself, then its parents, innermost first."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _default_stages(graph: Graph, running: Sequence[str]) -> list[str]:
    counts = Counter(prefix for path in running for prefix in _ancestors(path))
    stages = list(graph.modules[""].children)
    while True:
        large = [path for path in stages if counts[path] > 0.75 * len(running)]
        children = [child for path in large for child in graph.modules[path].children]
        if not children:
            return stages
        index = stages.index(large[0])
        stages[index : index + 1] = children
