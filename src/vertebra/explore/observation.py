"""A network at work on one photo: all that the sections of the page are made from."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from vertebra.anatomy import Anatomy, inspect
from vertebra.anatomy.measurement import operation_times
from vertebra.errors import UsageError
from vertebra.graph import trace as tracer
from vertebra.graph.ir import Graph, Node
from vertebra.graph.rows import nodes_with_costs
from vertebra.introspect.operation_values import Contributions, OperationValues, operation_values

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

    @cached_property
    def nodes(self) -> list[Node]:
        """The operation of the graph behind each row."""
        return [node for node, _ in nodes_with_costs(self.graph)]


@dataclass(frozen=True, eq=False)
class Observation:
    """A network and the values of all its operations on one photo."""

    structure: Structure
    photo: Photo
    values: OperationValues

    @cached_property
    def logits(self) -> Tensor:
        """(classes,)"""
        return self.values.result.detach()[0]

    @cached_property
    def target(self) -> int:
        """The class that all contributions are to: the one with the highest probability."""
        return int(self.logits.argmax())

    @cached_property
    def contributions(self) -> Contributions:
        """Of each operation's output to the logit of `target`: gradient × value, by row."""
        return self.values.contributions(self.values.result[0, self.target])

    def output(self, part: Part) -> Tensor:
        """The part's output, (1, C, H, W) or (1, C)."""
        return self.values.outputs[part.row].detach()


def build_structure(subject: Subject) -> Structure:
    """Analyse a network at the size of its input."""
    side = subject.preprocessing.crop_size
    anatomy = inspect(subject.network, (subject.channels, side, side))
    graph = tracer.trace_network(anatomy.subject.network, anatomy.subject.args, anatomy.subject.kwargs)
    return Structure(subject, anatomy, graph, build_parts(anatomy.rows, graph.modules))


def time_parts(structure: Structure, seconds: float = 0.5) -> None:
    """Time the operations in torch on this machine, for so long or three runs; no times where that fails."""
    with contextlib.suppress(UsageError):
        add_times(structure.parts, operation_times(structure.anatomy.subject, seconds))


def observe(structure: Structure, photo: Photo) -> Observation:
    """Run the network on a photo."""
    x = network_input(structure.subject, photo.pixels)
    use_statistics_of(structure.subject, x)
    return Observation(structure, photo, operation_values(structure.subject.network, structure.graph, x))
