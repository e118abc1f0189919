"""`inspect` and its result, `Anatomy`: the cost of each operation of a network."""

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
from vertebra.graph.rows import build_rows
from vertebra.units import count, size

from .anatomy_page import embed_in_iframe, render_page
from .kernels import ONNXRUNTIME
from .latency import Latency, predict
from .machine_calibration import load_calibration
from .measurement import Measurement, measure
from .network_input import Subject, prepare
from .plots import draw_anatomy
from .training_memory import TrainingMemory, forecast_training_memory
from .verdict import verdict

if TYPE_CHECKING:
    import pandas

SCHEMA = 1  # of to_dict(); raised when a key changes its meaning


@dataclass(frozen=True, repr=False)
class Anatomy(Profile):
    """The cost of each operation of a network for one input: parameters, arithmetic, bytes and time.

    Sums are for the whole batch. Returned by `vertebra.inspect(…)`.
    """

    subject: Subject = field(repr=False)

    def training_memory(
        self, optimizer: str = "momentum", checkpointing: bool = False, batch_size: int | None = None
    ) -> TrainingMemory:
        """Forecast the memory of a training step without running it, as on a CPU.

        Args:
            optimizer: "sgd" (no state), "momentum", "adam" or "adamw".
            checkpointing: as `ConvNet.set_activation_checkpointing` sets it.
            batch_size: None keeps that of the analysis.

        Raises:
            UsageError: an unknown optimizer; checkpointing of a network without it; a batch that the network cannot
                train on (batch norm needs more than one value per channel).
        """
        batch_size = self.batch_size if batch_size is None else batch_size
        require_positive_int("batch_size", batch_size)
        return forecast_training_memory(self.subject, optimizer, checkpointing, batch_size)

    def latency(self, device: Any = "here", executor: str | None = None) -> Latency:
        """Predict the time of each operation and of the network, in ms.

        Args:
            device: "here" (this machine, calibrated at first use in under 20 s), a name in `devices()`, or a `Device`.
            executor: on this machine "onnxruntime" (the default) or "torch" (eager, channels-last).

        Raises:
            UsageError: an unknown device or executor, or a dtype that the device has no figures for.
        """
        return predict(self, device, executor)

    def measure(self, executor: str = "onnxruntime", seconds: float = 2.0) -> Measurement:
        """Time each operation and the network on this machine, with random weights.

        Args:
            executor: "onnxruntime" or "torch" (eager, channels-last).
            seconds: how long to run it, at least three times.

        Raises:
            UsageError: an unknown executor, or operations that cannot be written as ONNX.
        """
        return measure(self.subject, self.rows, executor, seconds)

    def to_frame(self, latency: Latency | None = None, measurement: Measurement | None = None) -> pandas.DataFrame:
        """The rows as a pandas DataFrame, with `predicted_ms`, `bound_by`, `bound` and `measured_ms` if given.

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
        """A few sentences on the largest costs and what limits the time."""
        return verdict(self, latency)

    def to_dict(
        self,
        *,
        latency: Latency | None = None,
        measurement: Measurement | None = None,
        training: Iterable[TrainingMemory] = (),
    ) -> dict[str, Any]:
        """Everything as JSON-ready data, in bytes, counts and ms; enough for the page and the plots."""
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
        """A self-contained HTML page, which works offline, in light and dark, by mouse and by keyboard."""
        return render_page(self.to_dict(latency=latency, measurement=measurement, training=training))

    def to_png(
        self, path: str | Path, *, latency: Latency | None = None, measurement: Measurement | None = None
    ) -> None:
        """Plot the shares of the stages and, with a latency, the roofline.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        draw_anatomy(self, path, latency, measurement)

    def _repr_html_(self) -> str:
        """The page in a notebook, with times if this machine is calibrated."""
        calibration = load_calibration(ONNXRUNTIME) if self.dtype == "float32" else None
        latency = None if calibration is None else predict(self, calibration)
        return embed_in_iframe(self.to_html(latency=latency), f"Anatomy of {self.name}")

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
    """Analyse a network on the meta device, without memory or arithmetic; the network is not changed.

    Args:
        model: a name from `list_models()`, or any `torch.nn.Module` on any device and in any mode.
        input_size: one side in pixels, (height, width), or (channels, height, width). None: the size of the network's
            default weights, or 224.
        batch_size: images in the batch; sums are for all of them.
        dtype: of weights and input, such as torch.float16; None keeps the network's.
        inputs: instead of `input_size`, for networks that do not take one image: a tensor, a tuple of tensors, or a
            dict by name. Only their shapes are used.

    Returns:
        The `Anatomy`: `.parameters`, `.macs`, `.rows`, `.stages`, `.peak_activation_bytes`, `.latency(device)`, …

    Raises:
        UsageError: the network fails on the input, depends on values of tensors, or an argument is invalid.
    """
    subject = prepare(model, input_size, batch_size, dtype, inputs)
    network, args, kwargs = subject.network, subject.args, subject.kwargs
    leaves = tree_leaves((args, kwargs))
    return Anatomy(
        name=subject.name,
        rows=tuple(build_rows(tracer.trace_network(network, args, kwargs))),
        input=tracer.describe_inputs(args, kwargs),
        input_shapes=tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, torch.Tensor)),
        batch_size=subject.batch_size,
        dtype=str(subject.dtype).removeprefix("torch."),
        parameter_bytes=sum(p.numel() * p.dtype.itemsize for p in network.parameters()),
        subject=subject,
    )
