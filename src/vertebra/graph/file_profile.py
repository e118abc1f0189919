"""What an ONNX file costs: `vertebra inspect FILE.onnx`. Needs neither torch nor the onnx package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vertebra.card import CardError

from .cost import Kind
from .onnx_graph import graph_of
from .onnx_reader import OnnxFile, read_onnx
from .profile import Profile
from .rows import Row, rows_of


@dataclass(frozen=True)
class FileProfile(Profile):
    """The rows of a file's operations for one input, and what is to be said of how they were counted."""

    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As of a network, with the notes."""
        return {"schema": 1, **super().to_dict(), "type": "ONNX", "notes": list(self.notes)}


def profile_file(path: Path, size: int | tuple[int, int] | None = None, batch_size: int = 1) -> FileProfile:
    """Count the operations of a file.

    Args:
        path: an ONNX file, of any exporter.
        size: pixels of a side, or (height, width), where the file leaves them open.
        batch_size: images, where the file leaves their number open.

    Raises:
        CardError: the file cannot be read, or is not ONNX.
        UsageError: a size that the file leaves open is not given, or one that it fixes is another.
    """
    file = read_onnx(path)
    if not file.nodes:
        raise CardError(f"{path} is no ONNX file, or one without operations.")
    end = path.stat().st_size
    for weight in file.tensors.values():
        if not weight.file and weight.start + weight.size > end:
            raise CardError(f"{path} is cut short: the weight {weight.name!r} ends behind the end of the file.")
    graph, assumed = graph_of(file, size, batch_size)
    rows = tuple(rows_of(graph))
    images = max(graph.inputs, key=lambda tensor: len(tensor.shape))  # the first of the highest rank
    weights = [storage for storage in graph.storages if storage.parameters]
    floats = Counter(t.dtype for node in graph.nodes for t in node.inputs if graph.is_weight(t))
    return FileProfile(
        name=path.name,
        rows=rows,
        input=", ".join(f"{t.dtype} {' × '.join(map(str, t.shape)) or 'scalar'}" for t in graph.inputs),
        input_shapes=tuple(tensor.shape for tensor in graph.inputs),
        batch_size=images.shape[0] if images.shape else 1,
        dtype=floats.most_common(1)[0][0] if floats else images.dtype,
        parameter_bytes=sum(storage.nbytes for storage in weights),
        notes=tuple(_notes(file, rows, assumed)),
    )


def _notes(file: OnnxFile, rows: Sequence[Row], assumed: Sequence[str]) -> list[str]:
    kinds = Counter(node.kind for node in file.nodes)
    notes = []
    if file.producer == "vertebra":
        notes.append(
            "The batch norms behind convolutions are folded into them, so the file has one parameter a channel for "
            "their two, and normalises photos before the network and applies softmax behind it. MACs are the network's."
        )
    if kinds["QuantizeLinear"] and kinds["DequantizeLinear"]:
        notes.append(
            "QuantizeLinear and DequantizeLinear count as part of the operations around them, which read and write 8 "
            "bits."
        )
    other = {weight.file for weight in file.tensors.values() if weight.file}
    missing = sorted(name for name in other if not (file.path.parent / name).is_file())
    if missing:
        notes.append(f"The weights are in {missing[0]}, which is not there; shapes and costs do not depend on it.")
    unknown = Counter(row.op for row in rows if row.kind is Kind.UNKNOWN)
    if unknown:
        named = ", ".join(f"{op} ({count})" for op, count in sorted(unknown.items()))
        notes.append(f"Not known, counted as memory traffic alone: {named}.")
    if file.functions:
        named = ", ".join(sorted(file.functions))
        notes.append(f"The file defines {named} itself; what is inside of it is not counted.")
    bodies = sorted({node.kind for node in file.nodes if node.has_subgraphs})
    if bodies:
        notes.append(f"What is inside of {', '.join(bodies)} is not counted.")
    if assumed:
        notes.append(
            f"The result of {', '.join(sorted(assumed))} depends on values or is not described, and is taken to have "
            "the shape of its input."
        )
    return notes
