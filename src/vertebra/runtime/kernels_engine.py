"""The package `vertebra-kernels` as an engine: fused kernels for networks with depthwise convolutions.

The file is planned and its weights are packed on first use; see `converted_file` for how that is verified and cached.
The packed file is copied into memory once, for all lanes.
"""

from __future__ import annotations

import importlib.util
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vertebra.card import Card
from vertebra.errors import MissingExtraError, first_line, require_extra
from vertebra.pixels import Pixels

from .converted_file import ConvertedForm, converted, load_converted
from .engine import INPUT, OUTPUTS, PROBABILITIES, EngineError, FloatArray, Plan

_ADVICE = "Use --engine onnxruntime."


def installed() -> bool:
    """Whether the package is installed; does not import it."""
    return importlib.util.find_spec("vertebra_kernels") is not None


def import_kernels() -> Any:
    """Import the package.

    Raises:
        MissingExtraError: it is not installed.
        EngineError: its library cannot be loaded on this machine.
    """
    with require_extra("kernels", "the engine kernels"):
        try:
            import vertebra_kernels
        except OSError as error:
            raise EngineError(
                f"the library of vertebra-kernels cannot be loaded ({first_line(error)}). {_ADVICE}"
            ) from error
    if not hasattr(vertebra_kernels.Network, "beside"):
        raise EngineError(
            "vertebra-kernels is older than 0.2.0, which this Vertebra needs. Run: pip install -U 'vertebra[kernels]'"
        )
    return vertebra_kernels


class KernelsEngine:
    """The kernels on the CPU: lanes share the weights, and each has threads and memory for activations of its own."""

    name = "kernels"

    def __init__(self, path: Path, card: Card, plan: Plan) -> None:
        if not installed():
            raise MissingExtraError("the engine kernels", "kernels")
        load_converted(lambda: packed_file(path, card), lambda packed: self._open(packed, plan))

    def _open(self, packed: Path, plan: Plan) -> None:
        kernels = import_kernels()
        self.lanes = plan.lanes
        try:
            with packed.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            first = kernels.Network(content, plan.threads)
            self._networks = [first, *(first.beside(plan.threads) for _ in range(plan.lanes - 1))]
        except (OSError, ValueError, MemoryError) as error:
            raise EngineError(f"{packed} cannot be loaded ({first_line(error)}). {_ADVICE}") from error

    def run(self, batch: Pixels, outputs: Sequence[str] = (PROBABILITIES,), lane: int = 0) -> list[FloatArray]:
        """uint8 (N, H, W, 3) → the named outputs, each float32 (N, …)."""
        try:
            found: list[FloatArray] = self._networks[lane].run(np.ascontiguousarray(batch), tuple(outputs))
        except (ValueError, MemoryError) as error:
            raise EngineError(f"the kernels cannot run {len(batch)} images ({first_line(error)}). {_ADVICE}") from error
        return found


class _Unverified(KernelsEngine):
    """The engine on a packed file that is not verified yet."""

    def __init__(self, packed: Path, plan: Plan) -> None:
        self._open(packed, plan)


def packed_file(path: Path, card: Card) -> Path:
    """Return the packed form of a file, from the cache or packed and verified now.

    Raises:
        EngineError: the kernels cannot run the file, or give other outputs than ONNX Runtime.
    """
    from importlib import metadata

    kernels = import_kernels()

    def pack(model: Path, target: Path) -> None:
        target.write_bytes(_pack(kernels, model, card))

    def unverified(packed: Path) -> list[KernelsEngine]:
        return [_Unverified(packed, Plan("kernels", threads=threads)) for threads in (1, 2)]

    version = f"{metadata.version('vertebra-kernels')}-{kernels.instruction_set()}"
    if kernels.supports_int8():  # where it does not, files in int8 are refused, which the cache has too
        version += "-int8"
    # Other orders of summing stay ten times below both tolerances.
    return converted(path, card, ConvertedForm("kernels", version, pack, unverified, 1e-4, 1e-4))


def network_graph(path: Path, card: Card) -> Any:
    """Return the `vertebra_kernels.Graph` of an ONNX file.

    Raises:
        ValueError: it cannot be read, or has other inputs or outputs than an exported file.
    """
    from .onnx_graph import read_graph

    kernels = import_kernels()
    found = read_graph(path)
    if found.inputs != (INPUT,) or not set(OUTPUTS) <= set(found.outputs):
        raise ValueError(f"inputs {', '.join(found.inputs)}; outputs {', '.join(found.outputs)}")
    nodes = [kernels.Node(node.op, node.inputs, node.outputs, node.attributes) for node in found.nodes]
    size = card.preprocessing.crop_size
    return kernels.Graph(nodes, found.constants, INPUT, {name: name for name in OUTPUTS}, (size, size))


def _pack(kernels: Any, model: Path, card: Card) -> bytes:
    """Return the plan and the packed weights of an ONNX file."""
    try:
        packed: bytes = kernels.pack(network_graph(model, card))
    except ValueError as error:  # UnsupportedGraph is one
        raise EngineError(f"the kernels cannot run {model}: {first_line(error)}. {_ADVICE}") from error
    return packed
