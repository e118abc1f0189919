"""How channels grow along dense blocks, and along the concatenations of any network."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import nn

from vertebra.graph.rows import Row

from .convolution_chains import in_channels


def block_channels(rows: Iterable[Row]) -> list[list[int]]:
    """For each dense block, what the first convolution of each layer reads, and what the block writes."""
    lines: dict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        if match := re.match(r"(.*denseblock\d+)(?:\.(\w+))?", row.module):
            block, layer = match.groups()
            if row.macs and layer not in lines[block]:
                lines[block][layer] = in_channels(row)
            lines[block]["out"] = row.output_shape[1]
    return [[count for layer, count in line.items() if layer != "out"] + [line["out"]] for line in lines.values()]


def share_kept(block: nn.Module, channels: int) -> float:
    """The share of a block's input values that it puts out unchanged, in the first channels of its output."""
    x = torch.randn(1, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((block.eval()(x.clone())[:, :channels] == x).double().mean())


def most_frequent(steps: Iterable[int]) -> int:
    """The step that occurs most often; the first of several."""
    return Counter(steps).most_common(1)[0][0]


def concatenation_steps(rows: Iterable[Row]) -> list[int]:
    """Channels that each concatenation of feature maps adds to the one before at the same resolution.

    0 where it does not put all of that one out again: where maps are joined that were computed anew.
    """
    joins = [row for row in rows if row.op == "concat" and len(row.output_shape) == 4]
    pairs = [(a, b) for a, b in pairwise(joins) if a.output_shape[2:] == b.output_shape[2:]]
    return [b.output_shape[1] - a.output_shape[1] if _contains(b, a) else 0 for a, b in pairs]


def _contains(later: Row, earlier: Row) -> bool:
    """Whether a concatenation reads another one, or all that it reads."""
    return earlier.index in later.inputs or set(earlier.inputs) <= set(later.inputs)
