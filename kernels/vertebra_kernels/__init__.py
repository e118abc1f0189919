"""Fused kernels for networks of inverted residuals: MobileNetV2, EfficientNet, EfficientNetV2, EfficientNet-Lite.

>>> packed = pack(graph)  # doctest: +SKIP
>>> network = Network(packed, threads=2)  # doctest: +SKIP
>>> (probabilities,) = network.run(images, ["probabilities"])  # doctest: +SKIP
"""

from vertebra_kernels.graph import Graph, Node, UnsupportedGraph
from vertebra_kernels.network import Network
from vertebra_kernels.packing import pack
from vertebra_kernels.resizing import is_resizable, resize
from vertebra_kernels.shared_library import INSTRUCTION_SETS, instruction_set, supports_int8

__all__ = [
    "INSTRUCTION_SETS",
    "Graph",
    "Network",
    "Node",
    "UnsupportedGraph",
    "instruction_set",
    "is_resizable",
    "pack",
    "resize",
    "supports_int8",
]
