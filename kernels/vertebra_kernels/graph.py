"""The graph that the planner takes: operators and attributes as ONNX names them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Node(NamedTuple):
    """One operator."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, object]


class Graph(NamedTuple):
    """A network with ONNX's semantics; its input is uint8 `(N, height, width, 3)`, N free."""

    nodes: list[Node]
    constants: dict[str, NDArray[np.generic]]
    input: str
    outputs: dict[str, str]  # name of an output -> tensor
    image_size: tuple[int, int]  # height, width


class UnsupportedGraph(ValueError):  # noqa: N818
    """The planner does not know this graph: names the node, its operator and the reason."""
