"""Fold batch norms into the convolutions before them, for inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def fold_batch_norms(
    nodes: Sequence[Any], weights: dict[str, Any], num_readers: Mapping[str, int]
) -> tuple[list[Any], dict[str, str]]:
    """Fold each BatchNormalization whose input is the result of a Conv that nothing else reads.

    `nodes` (onnx.NodeProto) and `weights` are changed in place; `num_readers` counts the readers of each tensor.
    Returns the nodes that are left, and for each result of a folded norm the name of the convolution's.
    """
    makers = {node.output[0]: node for node in nodes}
    renamed: dict[str, str] = {}
    kept = []
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        conv = makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or num_readers[conv.output[0]] != 1 or conv.input[1] not in weights:
            kept.append(node)
            continue
        weight = weights[conv.input[1]]
        bias = weights[conv.input[2]] if len(conv.input) == 3 else 0.0
        gamma, beta, mean, variance = (weights[name].astype(np.float64) for name in node.input[1:])
        factor = gamma / np.sqrt(variance + node.attribute[0].f)
        names = [f"{conv.name}.weight", f"{conv.name}.bias"]
        if num_readers[conv.input[1]] > 1:  # other layers share this weight, and may have norms of their own
            names[0] = f"{conv.name}.folded"
        weights[names[0]] = (weight * factor.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
        weights[names[1]] = ((bias - mean) * factor + beta).astype(np.float32)
        conv.input[1:] = names
        renamed[node.output[0]] = conv.output[0]
    return kept, renamed
