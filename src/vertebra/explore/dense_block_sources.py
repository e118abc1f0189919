"""Which earlier layers the layers of a dense block read, and how strongly (Huang et al. 2017, Fig. 5), on a photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vertebra.errors import UsageError
from vertebra.graph.rows import Row
from vertebra.introspect.dense_sources import DenseSource, dense_sources, weights_by_source

from .encoding import rounded
from .observation import Observation
from .pictures import total


def dense_block_sources(observation: Observation, _options: object) -> dict[str, Any]:
    """For each stage with a dense block: by reader and source the mean absolute weight, and the contribution.

    The contribution is gradient × value of the source's channels in the concatenation that the reader reads: what
    reaches the logit through this reader, or through later ones, is told apart.
    """
    rows, blocks = observation.structure.rows, _blocks(observation)
    if not blocks:
        return {}
    weights = {found.source: found.mean for found in weights_by_source(observation.structure.subject.network)}
    shown: dict[str, Any] = {}
    for block, pairs in blocks.items():
        readers: dict[str, list[DenseSource]] = {}
        for pair in pairs:
            readers.setdefault(pair.reader, []).append(pair)
        read = []
        for reader, sources in readers.items():
            if (concatenation := _concatenation_before(rows, reader)) is None:
                continue
            contributions = observation.contributions[concatenation.index]
            read.append(
                {
                    "name": reader,
                    "row": concatenation.index,
                    "channels": [pair.stop - pair.start for pair in sources],
                    "weights": [rounded(weights[pair], 4) for pair in sources],
                    "contributions": None
                    if contributions is None
                    else [total(contributions[:, pair.start : pair.stop]) for pair in sources],
                }
            )
        names = list(dict.fromkeys(pair.source.removeprefix(f"{block}.") for pair in pairs if pair.start))
        for part in observation.structure.parts.values():
            if part.level == "stage" and read and read[0]["row"] in part.rows:
                shown[part.id] = {"block": block, "sources": names, "readers": read}
    return shown


def dense_concatenations(observation: Observation) -> set[int]:
    """Rows of the concatenations that the readers of dense blocks read."""
    rows = observation.structure.rows
    readers = {pair.reader for pairs in _blocks(observation).values() for pair in pairs}
    found = (_concatenation_before(rows, reader) for reader in readers)
    return {row.index for row in found if row is not None}


def _blocks(observation: Observation) -> dict[str, list[DenseSource]]:
    """The pairs of readers and sources by the path of their block; none where it has no dense block."""
    try:
        pairs = dense_sources(observation.structure.subject.network)
    except UsageError:
        return {}
    blocks: dict[str, list[DenseSource]] = {}
    block = ""
    for pair in pairs:
        if pair.start == 0:  # the block's own input
            block = pair.source
        blocks.setdefault(block, []).append(pair)
    return blocks


def _concatenation_before(rows: Sequence[Row], reader: str) -> Row | None:
    """The concatenation that a layer reads, through norms, activations and poolings."""
    index = next((row.index for row in rows if row.module == reader and row.inputs), -1)
    while index >= 0:
        row = rows[index]
        if row.op == "concat":
            return row
        if len(row.inputs) != 1:
            return None
        index = row.inputs[0]
    return None
