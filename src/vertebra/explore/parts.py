"""A network as a tree of parts: stages, blocks, layers, operations; each with its shapes, costs and what it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vertebra.graph.cost import CONVOLUTIONS, Kind
from vertebra.graph.rows import Row

Level = Literal["stage", "block", "layer", "operation"]
INPUT = "input"  # stands for the network's input among what a part reads

_WEIGHTED = CONVOLUTIONS | {Kind.MATMUL}


@dataclass
class Part:
    """A stage, block, layer or operation. A layer is a convolution or linear layer with its norm and activation."""

    id: str  # "stage/layer1", "block/layer1.0", "layer/12" (index of its first row), "operation/12"
    level: Level
    name: str  # path of the module: "layer1.0.conv1"
    type: str  # class of the module, or what the operation is: "Bottleneck", "conv2d"
    rows: tuple[int, ...]  # indices of its operations
    parent: str | None
    children: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)  # parts of the same parent, or of any other before it; INPUT
    shape: tuple[int, ...] = ()  # of its output, without the batch: (C, H, W) or (C,)
    detail: str = ""  # "3×3, stride 2"
    parameters: int = 0
    macs: int = 0
    bytes: int = 0
    ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def row(self) -> int:
        """Index of the operation whose output is the part's."""
        return self.rows[-1]


def build_parts(rows: Sequence[Row]) -> dict[str, Part]:
    """All parts by id, parents before their children, in the order in which they run."""
    running = [row for row in rows if row.kind is not Kind.UNUSED]
    parts: dict[str, Part] = {}
    for stage, in_stage in _grouped(running, "stage"):
        _add(parts, "stage", f"stage/{stage}", stage, "", in_stage, None)
        for block, in_block in _grouped(in_stage, "block"):
            layers = _layers(in_block)
            parent = f"stage/{stage}"
            if len(layers) > 1:
                _add(parts, "block", f"block/{block}", block, "", in_block, parent)
                parent = f"block/{block}"
            for layer in layers:
                first = layer[0]
                _add(parts, "layer", f"layer/{first.index}", first.name, first.op, layer, parent)
                for row in layer if len(layer) > 1 else ():
                    _add(parts, "operation", f"operation/{row.index}", row.name, row.op, [row], f"layer/{first.index}")
    return parts


def _add(
    parts: dict[str, Part], level: Level, identity: str, name: str, kind: str, rows: Sequence[Row], parent: str | None
) -> None:
    parts[identity] = Part(
        identity,
        level,
        name,
        kind,
        tuple(row.index for row in rows),
        parent,
        shape=rows[-1].output_shape[1:],
        detail=rows[0].detail if level in ("layer", "operation") else "",
        parameters=sum(row.parameters for row in rows),
        macs=sum(row.macs for row in rows),
        bytes=sum(row.bytes for row in rows),
    )
    if parent is not None:
        parts[parent].children.append(identity)


def _grouped(rows: Sequence[Row], attribute: str) -> Iterator[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(getattr(row, attribute), []).append(row)
    yield from groups.items()


def _layers(rows: Sequence[Row]) -> list[list[Row]]:
    """Convolutions and linear layers, each with the norm and the activation behind it; all else one by one."""
    layers: list[list[Row]] = []
    for row in rows:
        follows = layers and row.inputs == (layers[-1][-1].index,) and layers[-1][0].kind in _WEIGHTED
        if follows and row.kind in (Kind.NORM, Kind.ELEMENTWISE):
            layers[-1].append(row)
        else:
            layers.append([row])
    return layers
