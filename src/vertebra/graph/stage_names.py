"""The stage and block that an operation belongs to, and its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

from .ir import Graph

BEFORE, AFTER = "input", "classifier"  # what a network of ours does outside of its stages
TOP = "(top)"  # what another network does outside of its children


class StageNames:
    """Stages and blocks of a network.

    Our networks tell their stages. Of another one the children are the stages; a child that does more than three
    quarters of the operations is opened, and its children are. A block is the outermost module of a stage that is not
    just a list of others.
    """

    def __init__(self, graph: Graph, running: Sequence[str]) -> None:
        """`running` has the module path of each operation, in order."""
        self._modules = graph.modules
        self._ours = graph.stages is not None
        # module path -> name of the stage
        self._prefixes = {path: path for path in _opened(graph, running)} if graph.stages is None else graph.stages
        self._outside = BEFORE
        # Many rows are in the same module.
        self.block, self.name, self._prefix = cache(self._block), cache(self._name), cache(self._find_prefix)

    def stage(self, path: str) -> str:
        """Name of the stage that a module belongs to; asked for operation by operation, in order."""
        prefix = self._prefix(path)
        if prefix is not None:
            self._outside = AFTER
            return self._prefixes[prefix]
        return self._outside if self._ours else path or TOP

    def _block(self, path: str) -> str:
        """Path of the block that a module belongs to."""
        prefix = self._prefix(path)
        parts = path.split(".")
        start = 1 if prefix is None else prefix.count(".") + 1
        for length in range(start, len(parts) + 1):
            candidate = ".".join(parts[:length])
            if not self._modules[candidate].is_list:
                return candidate or TOP
        return path or TOP

    def _name(self, path: str, op: str, has_weights: bool) -> str:
        """What a row is called: the module's path where the module is that operation, with the operation otherwise."""
        module = self._modules[path]
        is_leaf = path and not module.children
        return path if is_leaf and (has_weights or not module.parameters) else f"{path}.{op}".lstrip(".")

    def _find_prefix(self, path: str) -> str | None:
        return next((prefix for prefix in _ancestors(path) if prefix in self._prefixes), None)


def _ancestors(path: str) -> Iterator[str]:
    """The path itself, then each module around it, from the inside out."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _opened(graph: Graph, running: Sequence[str]) -> list[str]:
    counts = Counter(prefix for path in running for prefix in _ancestors(path))
    stages = list(graph.modules[""].children)
    while True:
        large = [path for path in stages if counts[path] > 0.75 * len(running)]
        children = [child for path in large for child in graph.modules[path].children]
        if not children:
            return stages
        place = stages.index(large[0])
        stages[place : place + 1] = children
