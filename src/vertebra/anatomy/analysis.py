"""The object: a network taken apart, and everything that is worked out from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from vertebra.errors import VertebraError, check_count
from vertebra.graph import trace as tracer
from vertebra.graph.cost import Kind
from vertebra.graph.rows import Row, rows_of

from . import training_memory
from .network_input import Subject, prepare
from .training_memory import TrainingMemory

if TYPE_CHECKING:
    import pandas

    from .latency import Latency
    from .measurement import Measurement

SCHEMA = 1  # of to_dict(); a higher number is another meaning


@dataclass(frozen=True)
class Group:
    """Rows that belong together, with their sums: a stage, a block or a module."""

    name: str
    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """Trainable and frozen values; a tensor that is used twice counts where it is used first."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and matrix products."""
        return sum(row.macs for row in self.rows)

    @property
    def flops(self) -> int:
        """2 × MACs."""
        return 2 * self.macs

    @property
    def other_ops(self) -> int:
        """All other arithmetic: additions, comparisons, … one an element."""
        return sum(row.other_ops for row in self.rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that are read."""
        return sum(row.weight_bytes for row in self.rows)

    @property
    def read_bytes(self) -> int:
        """Bytes of activations that are read."""
        return sum(row.read_bytes for row in self.rows)

    @property
    def write_bytes(self) -> int:
        """Bytes of results that are written."""
        return sum(row.write_bytes for row in self.rows)

    @property
    def bytes(self) -> int:
        """All bytes moved, if nothing stays in a cache."""
        return self.weight_bytes + self.read_bytes + self.write_bytes

    @property
    def intensity(self) -> float:
        """Operations of any sort a byte moved."""
        return (self.flops + self.other_ops) / self.bytes if self.bytes else 0.0

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the last result."""
        return next((row.output_shape for row in reversed(self.rows) if row.output_shape), ())

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """Pixels of the input that the last result with a field sees, along the longest path."""
        return next((row.receptive_field for row in reversed(self.rows) if row.receptive_field), None)

    def to_dict(self) -> dict[str, Any]:
        """The sums, and the indices of the rows."""
        return {
            "name": self.name,
            **{name: getattr(self, name) for name in SUMS},
            "intensity": self.intensity,
            "output_shape": self.output_shape,
            "receptive_field": self.receptive_field,
            "rows": [row.index for row in self.rows],
        }


SUMS = ("parameters", "macs", "flops", "other_ops", "weight_bytes", "read_bytes", "write_bytes", "bytes")


@dataclass(frozen=True, repr=False)
class Anatomy(Group):
    """A network taken apart for one input: what each operation costs in parameters, arithmetic, bytes and time.

    `name` is the network's; all sums are for the whole batch. Made by `vertebra.anatomy(…)`.
    """

    subject: Subject = field(repr=False)

    @property
    def batch_size(self) -> int:
        """Images in the batch."""
        return self.subject.batch_size

    @property
    def dtype(self) -> str:
        """Of the weights: "float32"."""
        return str(self.subject.dtype).removeprefix("torch.")

    @property
    def input(self) -> str:
        """The input in words: "float32 1 × 3 × 224 × 224"."""
        return tracer.describe(self.subject.args, self.subject.kwargs)

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each tensor that it was given."""
        leaves = tree_leaves((self.subject.args, self.subject.kwargs))
        return tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, torch.Tensor))

    @property
    def stages(self) -> tuple[Group, ...]:
        """The rows by stage, in the order in which the stages begin."""
        return _grouped(self.rows, "stage")

    @property
    def blocks(self) -> tuple[Group, ...]:
        """The rows by block: a residual block, an Inception module, a dense layer; or a layer that is in none."""
        return _grouped(self.rows, "block")

    @property
    def layers(self) -> tuple[Row, ...]:
        """The rows that do something: without views."""
        return tuple(row for row in self.rows if row.kind is not Kind.VIEW)

    @property
    def unknown(self) -> tuple[Row, ...]:
        """Operations whose arithmetic is not known; their bytes are counted, and no MACs."""
        return tuple(row for row in self.rows if row.kind is Kind.UNKNOWN)

    @property
    def parameter_bytes(self) -> int:
        """Memory of the parameters."""
        return sum(p.numel() * p.dtype.itemsize for p in self.subject.network.parameters())

    @property
    def peak_activation_bytes(self) -> int:
        """Most memory that activations take at one moment of inference, if each is freed after its last use.

        The input counts until it has been read, the result from its making. Weights are not in it.
        """
        return max((row.live_bytes for row in self.rows), default=0)

    @property
    def peak_row(self) -> Row | None:
        """The operation at which the activations take most memory."""
        return max(self.rows, key=lambda row: row.live_bytes, default=None)

    def training_memory(
        self, optimizer: str = "momentum", checkpointing: bool = False, batch_size: int | None = None
    ) -> TrainingMemory:
        """Forecast the memory of a training step, without running one.

        Args:
            optimizer: "sgd" (no state), "momentum", "adam" or "adamw".
            checkpointing: as `ConvNet.set_activation_checkpointing` does it.
            batch_size: None takes the anatomy's own.

        Raises:
            UsageError: an unknown optimizer; checkpointing of another network; a batch that the network cannot train
                on (batch norm needs more than one value a channel).
        """
        size = self.batch_size if batch_size is None else batch_size
        check_count("batch_size", size)
        return training_memory.training_memory(self.subject, optimizer, checkpointing, size)

    def latency(self, device: Any = "here", executor: str | None = None) -> Latency:
        """Predict the time of each operation and of the whole, in ms.

        Args:
            device: "here" (calibrated on the first use, in under 20 s), a name from `devices()`, or a `Device`.
            executor: of this machine "onnxruntime" (the default) or "torch" (eager, channels-last).

        Raises:
            UsageError: an unknown device or executor, or a dtype that the device has no figures for.
        """
        from .latency import predict

        return predict(self, device, executor)

    def measure(self, executor: str = "onnxruntime", seconds: float = 2.0) -> Measurement:
        """Time the whole and each operation on this machine, with made-up weights.

        Args:
            executor: "onnxruntime" or "torch" (eager, channels-last).
            seconds: how long to run it; more where three runs take longer.

        Raises:
            UsageError: an unknown executor, or operations that are not given to ONNX Runtime here.
        """
        from .measurement import measure

        return measure(self, executor, seconds)

    def to_frame(self, latency: Latency | None = None, measurement: Measurement | None = None) -> pandas.DataFrame:
        """The rows as a pandas DataFrame, with columns `predicted_ms`, `bound` and `measured_ms` for what is given.

        Raises:
            VertebraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise VertebraError("to_frame() needs pandas, which is not installed. Run: pip install pandas") from error
        frame = pandas.DataFrame([row.to_dict() for row in self.rows]).set_index("index")
        if latency is not None:
            frame["predicted_ms"] = pandas.Series({index: time.ms for index, time in latency.rows.items()})
            frame["bound"] = pandas.Series({index: time.bound for index, time in latency.rows.items()})
        if measurement is not None:
            frame["measured_ms"] = pandas.Series(dict(measurement.rows))
        return frame

    def verdict(self, latency: Latency | None = None) -> str:
        """What stands out, in a few sentences that are worked out from the rows."""
        from .verdict import verdict

        return verdict(self, latency)

    def to_dict(
        self,
        *,
        latency: Latency | None = None,
        measurement: Measurement | None = None,
        training: Iterable[TrainingMemory] = (),
    ) -> dict[str, Any]:
        """All of it, ready for JSON; bytes, counts and ms. A page or a plot needs nothing else."""
        peak = self.peak_row
        return {
            "schema": SCHEMA,
            **super().to_dict(),
            "type": type(self.subject.network).__name__,
            "input": self.input,
            "input_shapes": self.input_shapes,
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "parameter_bytes": self.parameter_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "peak_row": None if peak is None else peak.index,
            "unknown": [row.index for row in self.unknown],
            "stages": [group.to_dict() for group in self.stages],
            "blocks": [group.to_dict() | {"stage": group.rows[0].stage} for group in self.blocks],
            "rows": [row.to_dict() for row in self.rows],
            "verdict": self.verdict(latency),
            "latency": None if latency is None else latency.to_dict(),
            "measurement": None if measurement is None else measurement.to_dict(),
            "training": [forecast.to_dict() for forecast in training],
        }

    def to_html(
        self,
        *,
        latency: Latency | None = None,
        measurement: Measurement | None = None,
        training: Iterable[TrainingMemory] = (),
    ) -> str:
        """A page to look at it: one file that opens without a network, in light and dark, by mouse and by keyboard."""
        from .anatomy_page import page

        return page(self, latency, measurement, training)

    def to_png(
        self, path: str | Path, *, latency: Latency | None = None, measurement: Measurement | None = None
    ) -> None:
        """Draw the shares of the stages, and the roofline where a latency is given.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        from .anatomy_page import picture

        picture(self, path, latency, measurement)

    def _repr_html_(self) -> str:
        """What a notebook shows: the page, with times where this machine has been calibrated."""
        from .anatomy_page import in_notebook

        return in_notebook(self)

    def __repr__(self) -> str:
        from vertebra.units import count, size

        return (
            f"<Anatomy of {self.name} on {self.input}: {count(self.parameters)} parameters, {count(self.macs)}MACs, "
            f"{size(self.bytes)} moved, {len(self.layers)} operations>"
        )


def inspect(
    model: nn.Module | str,
    input_size: int | Sequence[int] | None = None,
    batch_size: int = 1,
    dtype: torch.dtype | str | None = None,
    *,
    inputs: Any = None,
) -> Anatomy:
    """Take a network apart, on shapes alone: no memory, no arithmetic, and the network stays as it is.

    Args:
        model: a name, as `list_models()` has it, or any `torch.nn.Module`, on any device, in any mode.
        input_size: one side in pixels, (height, width), or (channels, height, width). None takes the size that the
            network's default weights were made for, and 224 for other networks.
        batch_size: images in the batch; sums are for all of them.
        dtype: of weights and input, such as torch.float16; None takes the network's own.
        inputs: in place of `input_size`, for networks that take something else than one image: a tensor, a tuple of
            several, or a dict by name. Only their shapes are used.

    Returns:
        The `Anatomy`: `.parameters`, `.macs`, `.rows`, `.stages`, `.peak_activation_bytes`, `.latency(device)`, …

    Raises:
        UsageError: the network does not take the input, depends on values of its tensors, or an argument is wrong.
    """
    subject = prepare(model, input_size, batch_size, dtype, inputs)
    trace = tracer.run(subject.network, subject.args, subject.kwargs)
    return Anatomy(subject.name, tuple(rows_of(subject.network, trace)), subject)


def _grouped(rows: Iterable[Row], attribute: str) -> tuple[Group, ...]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(getattr(row, attribute), []).append(row)
    return tuple(Group(name, tuple(members)) for name, members in groups.items())
