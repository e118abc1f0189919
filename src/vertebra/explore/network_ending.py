"""Where a network's logits are: its output, or what the softmax or sigmoid at its end reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vertebra.graph.ir import Node
from vertebra.graph.rows import Row
from vertebra.introspect.operation_values import OperationValues

from .dependencies import through_views
from .notes import Note

SOFTMAX, SIGMOID = "softmax", "sigmoid"
_FUNCTIONS = {"_softmax": SOFTMAX, "sigmoid": SIGMOID}


@dataclass(frozen=True)
class Ending:
    """The logits of one image."""

    logits: Tensor  # (1, classes), with their graph of gradients
    row: int | None  # whose output they are, maybe through views
    function: str = ""  # what the network itself makes of them: "softmax", "sigmoid"; "": nothing

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """(classes,) in float64: each class's own of a sigmoid, else those of softmax(logits / temperature)."""
        logits = self.logits.detach()[0].double()
        return logits.sigmoid() if self.function == SIGMOID else (logits / temperature).softmax(0)

    @property
    def notes(self) -> list[Note]:
        """What has to be known of the probabilities."""
        if self.function:
            return [Note(f"note.ending.{self.function}")]
        return [Note("note.one_class")] if self.logits.shape[1] == 1 else []


def find_ending(rows: Sequence[Row], nodes: Sequence[Node], values: OperationValues) -> Ending:
    """The logits behind a network's output (1, classes)."""
    result = values.result
    at = next((index for index, output in enumerate(values.outputs) if output is result), None)
    if at is None:
        return Ending(result, None)
    at = through_views(rows, at)
    if at < 0:
        return Ending(result, None)
    function = _FUNCTIONS.get(nodes[at].op, "")
    output = values.outputs[at]
    reads = values.operands[at]
    is_over_classes = function == SIGMOID or (
        output.shape == result.shape and values.arguments[at].get("dim") in (1, -1) and result.shape[1] > 1
    )
    if not function or not is_over_classes or len(reads) != 1 or reads[0].numel() != result.numel():
        return Ending(result, at)
    inputs = rows[at].inputs
    row = through_views(rows, inputs[0]) if len(inputs) == 1 else None
    return Ending(reads[0].reshape(result.shape), None if row is None or row < 0 else row, function)
