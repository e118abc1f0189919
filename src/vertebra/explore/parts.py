"""A network as a tree of parts: stages, blocks, layers, operations; each with its shapes, costs and what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from vertebra.errors import UsageError, suggest
from vertebra.graph.cost import Kind
from vertebra.graph.ir import Module
from vertebra.graph.rows import Row
from vertebra.graph.stage_names import BEFORE, TOP

from .layer_grouping import Layer, find_readers, gate_members, group_layers
from .layout import lay_out
from .page import texts
from .roles import Label, is_classifier, label, layer_label, layer_roles, named, operation_role, repeated, say

Level = Literal["stage", "block", "layer", "operation"]
INPUT = "input"  # stands for the network's input among what a part reads


@dataclass
class Part:
    """A stage, block, layer or operation.

    A layer is a convolution or linear layer with its norm and activation, an addition with its activation, a whole
    gate, or any other operation. Ids are made from the paths of modules, and so the same in two networks of one
    architecture; of what runs more than once, the later ones end with "#2", "#3", ….
    """

    id: str  # "stage/layer1", "block/layer1.0", "layer/layer1.0.conv1", "operation/layer1.0.bn1"
    level: Level
    name: str  # path of the module: "layer1.0.conv1"
    role: str  # in its block: "expand", "depthwise", "gate", "shortcut", …: the text "role.expand"; "" for a stage
    label: list[Label]  # what it is called, by keys of texts
    type: str  # the label in English: "3 × Bottleneck", "3×3 conv"
    rows: tuple[int, ...]  # indices of its operations
    main: int  # index of the operation that it is named after: a layer's convolution
    parent: str | None
    children: list[str] = field(default_factory=list)
    # Parts of the same parent; for what is outside, the part beside its parent, or beside that one's; INPUT.
    reads: list[str] = field(default_factory=list)
    read_shapes: list[tuple[int, ...]] = field(default_factory=list)  # of each of `reads`, without the batch
    read_lanes: list[int] = field(default_factory=list)  # of each of `reads`: where its arrow passes other ranks
    lane: int = 0  # column among the children of its parent
    rank: int = 0  # row among them; the first is 0
    shape: tuple[int, ...] = ()  # of its output, without the batch: (C, H, W) or (C,)
    detail: str = ""  # "3×3, stride 2"
    parameters: int = 0
    macs: int = 0
    bytes: int = 0
    ms: float | None = None  # measured; None: not measured

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def row(self) -> int:
        """Index of the operation whose output is the part's."""
        return self.rows[-1]


Parts = dict[str, Part]


def build_parts(rows: Sequence[Row], modules: Mapping[str, Module]) -> Parts:
    """All parts by id, parents before their children, in the order in which they run.

    rows: of an `Anatomy`; modules: of its graph.
    """
    running = [row for row in rows if row.kind is not Kind.UNUSED]
    if not running:
        return {}
    tree = _Tree(running, modules)
    for stage, each in _stages(running):
        tree.add_stage(stage, each)
    _connect(tree.parts, running)
    return tree.parts


def find_part(parts: Parts, name: str) -> Part:
    """The part of this id or path of a module: the innermost part that holds all of the module's operations.

    Raises:
        UsageError: there is none; the nearest names are given.
    """
    if name in parts:
        return parts[name]
    exact = [part for part in parts.values() if part.name == name]
    if exact:  # a layer rather than its first operation
        return min(exact, key=lambda part: ("layer", "block", "stage", "operation").index(part.level))
    within = {row for part in parts.values() if part.name.startswith(f"{name}.") for row in part.rows}
    if name and within:
        return min((part for part in parts.values() if within.issubset(part.rows)), key=lambda part: len(part.rows))
    known = dict.fromkeys(part.name for part in parts.values())
    raise UsageError(f"the network has no part {name!r}. {suggest(name, known)}".rstrip())


def add_times(parts: Parts, measured: Mapping[int, float]) -> None:
    """Write the time of each part, from ms by row; None where none of its rows has one."""
    for part in parts.values():
        times = [measured[row] for row in part.rows if row in measured]
        part.ms = sum(times) if times else None


def sum_of_times(parts: Iterable[Part]) -> float | None:
    """ms of these parts together; None if none was timed."""
    times = [part.ms for part in parts if part.ms is not None]
    return sum(times) if times else None


def leaves(parts: Parts) -> dict[int, str]:
    """For each row the id of the part that is this row alone: an operation, or a layer of one."""
    return {part.row: part.id for part in parts.values() if not part.children}


def _stages(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows by stage as they run; one of views alone, which costs nothing, goes with the stage after it."""
    found: list[tuple[str, list[Row]]] = []
    views: list[Row] = []
    for stage, each in groupby(rows, lambda row: row.stage):
        within = [*views, *each]
        views = within if all(row.kind is Kind.VIEW for row in within) and within[-1] is not rows[-1] else []
        if not views:
            found.append((stage, within))
    return found


class _Tree:
    """Parts as they are added."""

    def __init__(self, rows: Sequence[Row], modules: Mapping[str, Module]) -> None:
        self.parts: Parts = {}
        self._modules = modules
        self._last = rows[-1]
        self._readers = find_readers(rows)
        self._gates = gate_members(rows, self._readers)

    def add_stage(self, name: str, rows: Sequence[Row]) -> None:
        """A stage with its blocks and the layers outside of them."""
        stage = self._add("stage", name, "", [], rows, rows[-1], None)
        for block, each in groupby(rows, self._block):
            self._add_block(stage, "" if block == name else block, list(each))
        children = [self.parts[child] for child in stage.children]
        blocks = [child for child in children if child.level == "block"]
        weighted = [child for child in children if child.macs]
        module = self._modules.get(name)
        if module is not None and module.children and not module.is_list and not blocks:
            stage.label = [named(module.type)]
        else:
            stage.label = repeated([child.label[0] for child in blocks or weighted or children])
        stage.type = say(stage.label, texts()["en"])

    def _block(self, row: Row) -> str:
        """The block that a row is shown in; "" for layers outside of blocks."""
        return row.block if row.block != TOP and self._modules[row.block].children else ""

    def _add_block(self, stage: Part, name: str, rows: Sequence[Row]) -> None:
        layers = group_layers(rows, self._readers, self._gates, bool(name))
        if stage.name == BEFORE and not any(layer.is_weighted for layer in layers):
            layers = [Layer(list(rows), rows[-1])]
        roles = layer_roles(layers, bool(name))
        parent = stage
        if name and len(layers) > 1:
            parent = self._add("block", name, "block", [named(self._modules[name].type)], rows, rows[-1], stage)
        for layer, role in zip(layers, roles, strict=True):
            if stage.name == BEFORE and len(layers) == 1:
                role = "input"
            elif is_classifier(layer.main, self._last):
                role = "classifier"
            self._add_layer(parent, layer, role)

    def _add_layer(self, parent: Part, layer: Layer, role: str) -> None:
        name = layer.main.module if layer.is_gate else BEFORE if role == "input" else layer.main.name
        part = self._add("layer", name, role, layer_label(layer, role), layer.rows, layer.main, parent)
        part.detail = "" if layer.is_gate else layer.main.detail
        for row in layer.rows if len(layer.rows) > 1 else ():
            operation = self._add("operation", row.name, operation_role(row), label(row), [row], row, part)
            operation.detail = row.detail

    def _add(
        self,
        level: Level,
        name: str,
        role: str,
        label: list[Label],
        rows: Sequence[Row],
        main: Row,
        parent: Part | None,
    ) -> Part:
        part = Part(
            self._unused_id(f"{level}/{name}"),
            level,
            name,
            role,
            label,
            say(label, texts()["en"]) if label else "",
            tuple(row.index for row in rows),
            main.index,
            None if parent is None else parent.id,
            shape=rows[-1].output_shape[1:],
            parameters=sum(row.parameters for row in rows),
            macs=sum(row.macs for row in rows),
            bytes=sum(row.bytes for row in rows),
        )
        self.parts[part.id] = part
        if parent is not None:
            parent.children.append(part.id)
        return part

    def _unused_id(self, wanted: str) -> str:
        found, number = wanted, 1
        while found in self.parts:
            number += 1
            found = f"{wanted}#{number}"
        return found


def _connect(parts: Parts, rows: Sequence[Row]) -> None:
    """What each part reads, and where it is drawn among the children of its parent."""
    paths: dict[int, list[str]] = {}  # of a row: ids of the parts that hold it, the stage first
    for part in parts.values():
        for row in part.rows:
            paths.setdefault(row, []).append(part.id)
    for part in parts.values():
        depth = len(list(_above(parts, part)))
        for row in part.rows:
            for source in rows[row].inputs:
                if source >= 0 and paths[source][depth : depth + 1] == [part.id]:
                    continue
                shape = (rows[source].output_shape if source >= 0 else _input_shape(rows[row]))[1:]
                read = INPUT if source < 0 else _beside(paths[source], paths[row])
                if read not in part.reads:
                    part.reads.append(read)
                    part.read_shapes.append(shape)
    groups = [[part.id for part in parts.values() if part.parent is None], *(part.children for part in parts.values())]
    for group in groups:
        layout = lay_out({identity: parts[identity].reads for identity in group})
        for identity in group:
            part = parts[identity]
            part.lane, part.rank = layout.lanes[identity], layout.ranks[identity]
            part.read_lanes = [layout.arrows[read, identity] for read in part.reads]


def _input_shape(row: Row) -> tuple[int, ...]:
    """The shape in which an operation reads the network's input."""
    place = row.inputs.index(-1) if len(row.inputs) == len(row.input_shapes) else 0
    return row.input_shapes[place]


def _above(parts: Parts, part: Part) -> Iterator[Part]:
    while part.parent is not None:
        part = parts[part.parent]
        yield part


def _beside(source: Sequence[str], reader: Sequence[str]) -> str:
    """The outermost part that holds the source and not the reader."""
    return next(identity for identity in source if identity not in reader)
