"""A network at work on one photo: all that the sections of the page are made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from vertebra.anatomy import Anatomy, inspect
from vertebra.anatomy.measurement import operation_times
from vertebra.errors import UsageError, first_line
from vertebra.graph import trace as tracer
from vertebra.graph.ir import Graph, Node
from vertebra.graph.receptive_field import ReceptiveField, ReceptiveFields
from vertebra.graph.rows import Row, nodes_with_costs
from vertebra.introspect.operation_values import Contributions, OperationValues, operation_values

from .layer_grouping import find_readers
from .network_ending import Ending, find_ending
from .notes import Note
from .parts import Part, add_times, build_parts
from .photo import Photo
from .subject import Subject, network_input, use_statistics_of


@dataclass(frozen=True, eq=False)
class Structure:
    """A network without a photo: its operations and parts."""

    subject: Subject
    anatomy: Anatomy
    graph: Graph
    parts: dict[str, Part]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All operations, as `inspect` lists them."""
        return self.anatomy.rows

    @cached_property
    def nodes(self) -> list[Node]:
        """The operation of the graph behind each row."""
        return [node for node, _ in nodes_with_costs(self.graph)]

    @cached_property
    def readers(self) -> dict[int, list[int]]:
        """For each row the rows that read it; -1 is the network's input."""
        return find_readers(self.rows)

    @cached_property
    def layer_of_row(self) -> dict[int, str]:
        """Id of the layer that a row belongs to, or of the innermost part above single operations."""
        return {row: part.id for part in self.parts.values() if part.level != "operation" for row in part.rows}

    @cached_property
    def receptive_fields(self) -> list[ReceptiveField | None]:
        """The theoretical receptive field of each row's output."""
        found = ReceptiveFields(self.graph)
        return [found.update(node, cost) for node, cost in nodes_with_costs(self.graph)]


@dataclass(frozen=True, eq=False)
class Observation:
    """A network and the values of all its operations on one photo."""

    structure: Structure
    photo: Photo
    values: OperationValues

    @cached_property
    def ending(self) -> Ending:
        """The logits, with their graph of gradients, and what the network makes of them."""
        return find_ending(self.structure.rows, self.structure.nodes, self.values)

    @cached_property
    def logits(self) -> Tensor:
        """(classes,)"""
        return self.ending.logits.detach()[0]

    @cached_property
    def target(self) -> int:
        """The class that all contributions are to: the one with the highest probability."""
        return int(self.logits.argmax())

    @cached_property
    def contributions(self) -> Contributions:
        """Of each operation's output to the logit of `target`: gradient × value, by row."""
        return self.values.contributions(self.ending.logits[0, self.target])

    def scores(self, row: int) -> Tensor:
        """What each value of a row's output contributes, (1, C, …); without a gradient its magnitude."""
        contributions = self.contributions[row]
        return self.values.outputs[row].detach().abs() if contributions is None else contributions

    def output(self, part: Part) -> Tensor:
        """The part's output, (1, C, H, W) or (1, C)."""
        return self.values.outputs[part.row].detach()


def build_structure(subject: Subject) -> Structure:
    """Analyse a network at the size of its input.

    Raises:
        UsageError: it runs no operation that can be shown.
    """
    side = subject.preprocessing.crop_size
    anatomy = inspect(subject.network, (subject.channels, side, side))
    graph = tracer.trace_network(anatomy.subject.network, anatomy.subject.args, anatomy.subject.kwargs)
    parts = build_parts(anatomy.rows, graph.modules)
    if not parts:
        raise UsageError(f"{subject.name} runs no operation on its input, so there is nothing to look into.")
    return Structure(subject, anatomy, graph, parts)


def time_parts(structure: Structure, seconds: float = 0.5) -> list[Note]:
    """Time the operations in torch on this machine, for so long or one run; where that fails, say so."""
    try:
        add_times(structure.parts, operation_times(structure.anatomy.subject, seconds))
    except UsageError as error:
        return [Note("note.untimed", {"name": structure.subject.name, "reason": first_line(error)})]
    return []


def observe(structure: Structure, photo: Photo) -> Observation:
    """Run the network on a photo."""
    x = network_input(structure.subject, photo.pixels)
    use_statistics_of(structure.subject, x)
    return Observation(structure, photo, operation_values(structure.subject.network, structure.graph, x))
