"""A pass of a float graph over photos: inner tensors of each photo, reduced by observers in several threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol

import numpy as np

from vertebra.machine import usable_cores
from vertebra.pixels import Pixels
from vertebra.prefetch import in_order
from vertebra.progress import Progress, silent

from .deployed_network import INPUT
from .onnx_model import Array, OnnxModel, add_outputs
from .torch_check import session

# A photo's tensors are all in memory while they are reduced, in each thread: 0.1 GB for VGG-16, 1.2 GB for
# EfficientNet-B7.
_MAX_THREADS = 4
# Photos reduced before observers take in the results with all cores.
_GROUP = 8


def pass_threads() -> int:
    """Return how many threads run a network at once."""
    return min(usable_cores(), _MAX_THREADS)


class Observer(Protocol):
    """A statistic of inner tensors over photos."""

    @property
    def names(self) -> Sequence[str]:
        """The tensors that it takes."""

    def reduce(self, photo: int, tensors: Mapping[str, Array]) -> Any:
        """Reduce the tensors (1, C, …) of a photo, given by its number; called from several threads."""

    def add(self, parts: Sequence[Any]) -> None:
        """Take in what `reduce` returned for some photos, in their order."""


class ActivationPass:
    """Runs a graph, of which inner tensors are outputs, over photos; observers of one pass share each photo's run.

    One thread a photo, not all threads on one: reductions in numpy run on a single core.
    """

    def __init__(self, graph: OnnxModel, images: Pixels, names: Sequence[str]) -> None:
        self._images = images
        self._threads = pass_threads()
        self._runtime = session(add_outputs(graph.model, names), threads=usable_cores() // self._threads)

    def observe(self, observers: Sequence[Observer], task: str = "", progress: Progress = silent) -> None:
        """Show each photo's tensors to all observers; progress is reported as `task`."""
        names = sorted({name for observer in observers for name in observer.names})
        count = len(self._images)

        def reduce(photos: Sequence[int]) -> list[list[Any]]:
            tensors = self._tensors(photos[0], names)
            return [[observer.reduce(photos[0], tensors) for observer in observers]]

        for start in range(0, count, _GROUP):
            group = range(start, min(start + _GROUP, count))
            parts: list[list[Any]] = []
            with closing(in_order(group, reduce, workers=self._threads, chunk=1)) as results:
                for reduced in results:
                    progress(task, start + len(parts), count)
                    parts.append(reduced)
            for number, observer in enumerate(observers):
                observer.add([part[number] for part in parts])

    def tensors(self, names: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Yield the named tensors (1, …) of each photo."""
        return (self._tensors(photo, names) for photo in range(len(self._images)))

    def _tensors(self, photo: int, names: Sequence[str]) -> dict[str, Array]:
        found = self._runtime.run(list(names), {INPUT: self._images[photo : photo + 1]})
        return dict(zip(names, map(np.asarray, found), strict=True))
