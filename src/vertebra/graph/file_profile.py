"""The profile of an ONNX file, for `vertebra inspect FILE.onnx`, without torch and the onnx package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vertebra.card import CardError

from .cost import Kind
from .onnx_graph import build_graph
from .onnx_reader import OnnxFile, read_onnx
from .profile import Profile
from .rows import Row, build_rows


@dataclass(frozen=True)
class FileProfile(Profile):
    """The rows of a file's operations for one input, with notes on how they were counted."""

    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The profile as a dict, with the notes."""
        return {"schema": 1, **super().to_dict(), "type": "ONNX", "notes": list(self.notes)}


def profile_file(path: Path, size: int | tuple[int, int] | None = None, batch_size: int = 1) -> FileProfile:
    """Profile an ONNX file.

    Args:
        path: a file written by any exporter.
        size: pixels of a side, or (height, width), if the file does not fix them.
        batch_size: number of images, if the file does not fix it.

    Raises:
        CardError: the file cannot be read, or is not ONNX.
        UsageError: the size is needed and missing, or differs from the one that the file fixes.
    """
    file = read_onnx(path)
    if not file.nodes:
        raise CardError(f"{path} is not an ONNX file, or has no operations.")
    end = path.stat().st_size
    for weight in file.tensors.values():
        if not weight.file and weight.start + weight.size > end:
            raise CardError(f"{path} is truncated: the weight {weight.name!r} ends after the end of the file.")
    graph, assumed = build_graph(file, size, batch_size)
    rows = tuple(build_rows(graph))
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
            "Batch norms are folded into the convolutions before them, so it has one parameter per channel where "
            "the network has two. It also normalises its input and ends in a softmax. MACs are those of the network."
        )
    if kinds["QuantizeLinear"] and kinds["DequantizeLinear"]:
        notes.append(
            "QuantizeLinear and DequantizeLinear are counted as part of the operations around them, which read and "
            "write 8 bits."
        )
    other = {weight.file for weight in file.tensors.values() if weight.file}
    missing = sorted(name for name in other if not (file.path.parent / name).is_file())
    if missing:
        notes.append(f"The weights are in {missing[0]}, which is missing; shapes and costs do not depend on it.")
    unknown = Counter(row.op for row in rows if row.kind is Kind.UNKNOWN)
    if unknown:
        named = ", ".join(f"{op} ({count})" for op, count in sorted(unknown.items()))
        notes.append(f"Unknown operators, counted by memory traffic alone: {named}.")
    if file.functions:
        named = ", ".join(sorted(file.functions))
        notes.append(f"The file itself defines {named}; operations inside it are not counted.")
    bodies = sorted({node.kind for node in file.nodes if node.has_subgraphs})
    if bodies:
        notes.append(f"Operations inside {', '.join(bodies)} are not counted.")
    if assumed:
        notes.append(
            f"The output shape of {', '.join(sorted(assumed))} is not in the file, or depends on values; the shape of "
            "the input is assumed."
        )
    return notes
