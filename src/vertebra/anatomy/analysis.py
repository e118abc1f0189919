"""`inspect` → `Anatomy`: a network analysed operation by operation, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from vertebra.errors import VertebraError, require_positive_int
from vertebra.graph import trace as tracer
from vertebra.graph.profile import Group, Profile
from vertebra.graph.rows import rows_of
from vertebra.units import count, size

from .anatomy_page import framed, page
from .kernels import ONNXRUNTIME
from .latency import Latency, predict
from .machine_calibration import kept
from .measurement import Measurement, measure
from .network_input import Subject, prepare
from .plots import draw_anatomy
from .training_memory import TrainingMemory, forecast_training_memory
from .verdict import verdict

if TYPE_CHECKING:
    import pandas

SCHEMA = 1  # of to_dict(); a higher number is another meaning


@dataclass(frozen=True, repr=False)
class Anatomy(Profile):
    """A network analysed for one input: what each operation costs in parameters, arithmetic, bytes and time.

    `name` is the network's; all sums are for the whole batch. Made by `vertebra.inspect(…)`.
    """

    subject: Subject = field(repr=False)

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
        batch_size = self.batch_size if batch_size is None else batch_size
        require_positive_int("batch_size", batch_size)
        return forecast_training_memory(self.subject, optimizer, checkpointing, batch_size)

    def latency(self, device: Any = "here", executor: str | None = None) -> Latency:
        """Predict the time of each operation and of the whole, in ms.

        Args:
            device: "here" (calibrated on the first use, in under 20 s), a name from `devices()`, or a `Device`.
            executor: of this machine "onnxruntime" (the default) or "torch" (eager, channels-last).

        Raises:
            UsageError: an unknown device or executor, or a dtype that the device has no figures for.
        """
        return predict(self, device, executor)

    def measure(self, executor: str = "onnxruntime", seconds: float = 2.0) -> Measurement:
        """Time the whole and each operation on this machine, with random weights.

        Args:
            executor: "onnxruntime" or "torch" (eager, channels-last).
            seconds: how long to run it; more where three runs take longer.

        Raises:
            UsageError: an unknown executor, or operations that are not given to ONNX Runtime here.
        """
        return measure(self.subject, self.rows, executor, seconds)

    def to_frame(self, latency: Latency | None = None, measurement: Measurement | None = None) -> pandas.DataFrame:
        """The rows as a pandas DataFrame, with `predicted_ms`, `bound_by`, `bound` and `measured_ms` for what is given.

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
            frame["bound_by"] = pandas.Series({index: time.bound_by for index, time in latency.rows.items()})
            frame["bound"] = pandas.Series({index: time.bound for index, time in latency.rows.items()})
        if measurement is not None:
            frame["measured_ms"] = pandas.Series(dict(measurement.rows))
        return frame

    def verdict(self, latency: Latency | None = None) -> str:
        """The largest costs and what limits the time, in a few sentences."""
        return verdict(self, latency)

    def to_dict(
        self,
        *,
        latency: Latency | None = None,
        measurement: Measurement | None = None,
        training: Iterable[TrainingMemory] = (),
    ) -> dict[str, Any]:
        """All of it, ready for JSON; bytes, counts and ms. A page or a plot needs nothing else."""
        return {
            "schema": SCHEMA,
            **Group.to_dict(self),
            "type": type(self.subject.network).__name__,
            **super().to_dict(),
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
        """One HTML file that shows it and opens offline, in light and dark, by mouse and by keyboard."""
        return page(self.to_dict(latency=latency, measurement=measurement, training=training))

    def to_png(
        self, path: str | Path, *, latency: Latency | None = None, measurement: Measurement | None = None
    ) -> None:
        """Draw the shares of the stages, and the roofline where a latency is given.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        draw_anatomy(self, path, latency, measurement)

    def _repr_html_(self) -> str:
        """What a notebook shows: the page, with times where this machine has been calibrated."""
        calibration = kept(ONNXRUNTIME) if self.dtype == "float32" else None
        latency = None if calibration is None else predict(self, calibration)
        return framed(self.to_html(latency=latency), f"Anatomy of {self.name}")

    def __repr__(self) -> str:
        return (
            f"<Anatomy of {self.name} on {self.input}: {count(self.parameters)} parameters, {count(self.macs)}MACs, "
            f"{size(self.bytes)} memory traffic, {len(self.layers)} operations>"
        )


def inspect(
    model: nn.Module | str,
    input_size: int | Sequence[int] | None = None,
    batch_size: int = 1,
    dtype: torch.dtype | str | None = None,
    *,
    inputs: Any = None,
) -> Anatomy:
    """Analyse a network on shapes alone: no memory, no arithmetic, and the network stays as it is.

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
    network, args, kwargs = subject.network, subject.args, subject.kwargs
    leaves = tree_leaves((args, kwargs))
    return Anatomy(
        name=subject.name,
        rows=tuple(rows_of(tracer.run(network, args, kwargs))),
        input=tracer.describe(args, kwargs),
        input_shapes=tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, torch.Tensor)),
        batch_size=subject.batch_size,
        dtype=str(subject.dtype).removeprefix("torch."),
        parameter_bytes=sum(p.numel() * p.dtype.itemsize for p in network.parameters()),
        subject=subject,
    )
