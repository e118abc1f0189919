"""One EfficientNet with MBConv in all stages, and with FusedMBConv: predicted and measured times, stage by stage."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vertebra.anatomy import Anatomy, inspect
from vertebra.anatomy.kernels import COMPILED, build_kernels
from vertebra.anatomy.roofline import Calibration, Device
from vertebra.graph.cost import CONVOLUTIONS
from vertebra.introspect.interleaved_timing import Ratio, Timings, time_interleaved
from vertebra.introspect.mbconv_swaps import fuse_mbconv, separate_mbconv
from vertebra.models import ConvNet, get_model
from vertebra.models.mbconv import FusedMBConv
from vertebra.models.state_dict import meta_build
from vertebra.progress import Progress, silent

from .charts import measured_and_predicted, ratio_scale
from .device_bounds import machine_profile, stage_ms
from .experiment import Figure, Measured

FIRST = ("stage1", "stage2", "stage3")  # that EfficientNetV2 fuses
SECONDS = 3.0  # of timing, a stage
BATCH = {"cpu": 1, "cuda": 16}  # images that are timed


def separated(name: str) -> ConvNet:
    """The network on the meta device, with MBConv in all stages."""
    network = _built(name)
    is_fused = any(isinstance(module, FusedMBConv) for module in network.modules())
    return separate_mbconv(network) if is_fused else network  # type: ignore[return-value]


def fused(name: str, stages: Sequence[str | int] | None = None, kernel: int | None = None) -> ConvNet:
    """The same, with FusedMBConv in these stages; None: in all. `kernel` None: as large as MBConv's."""
    return fuse_mbconv(separated(name), stages, kernel)  # type: ignore[return-value]


def _built(name: str) -> Any:
    with meta_build():
        return get_model(name)


def mbconv_stages(network: ConvNet) -> list[str]:
    """The stages between stem and head."""
    return [stage.name for stage in network.stages if stage.name.startswith("stage")]


@dataclass(frozen=True)
class StagePair:
    """Two networks that differ in the blocks of their stages, for the same images."""

    separated: Anatomy
    fused: Anatomy

    @staticmethod
    def of(separated: nn.Module, fused: nn.Module, size: int, batch: int) -> StagePair:
        """Count both."""
        return StagePair(inspect(separated, size, batch), inspect(fused, size, batch))

    def predicted(self, device: Device | Calibration) -> dict[str, float]:
        """The time of each stage fused over that with MBConv, and of `FIRST` together as "first three"."""
        latencies = self.separated.latency(device), self.fused.latency(device)
        mine, theirs = map(stage_ms, latencies)
        ratios = {stage: theirs[stage] / mine[stage] for stage in mine if stage.startswith("stage")}
        return ratios | {"first three": sum(theirs[s] for s in FIRST) / sum(mine[s] for s in FIRST)}

    def macs_ratio(self) -> dict[str, float]:
        """MACs of each stage fused over those with MBConv."""
        mine = {group.name: group.macs for group in self.separated.stages}
        return {g.name: g.macs / mine[g.name] for g in self.fused.stages if g.name.startswith("stage")}


def stage_counts(network: Anatomy) -> dict[str, dict[str, float]]:
    """Costs of each stage. Activation bytes are what its convolutions read and write, squeeze-excitation's included;
    bytes per MAC are of all its kernels, fused as a compiler fuses them, and with weights.
    """
    kernels = build_kernels(network.rows, COMPILED)
    found: dict[str, dict[str, float]] = {}
    for stage in network.stages:
        if stage.name.startswith("stage"):
            convolutions = [row for row in stage.rows if row.kind in CONVOLUTIONS]
            found[stage.name] = {
                "convolutions": len(convolutions),
                "activation bytes": sum(row.read_bytes + row.write_bytes for row in convolutions),
                "MACs": stage.macs,
                "parameters": stage.parameters,
                "bytes per MAC": sum(k.bytes for k in kernels if k.main.stage == stage.name) / stage.macs,
            }
    return found


def ratio_figures(
    separated: ConvNet, fused: ConvNet, size: int, device: str, seconds: float = SECONDS, progress: Progress = silent
) -> dict[str, Figure]:
    """The time of each stage on this machine, fused over that with MBConv: "cpu, stage1: measured" and "… predicted".

    `FIRST` together is "first three". The networks are on the meta device.
    """
    profile, batch = machine_profile(device, progress), BATCH[device]
    timed = _time_stages(separated, fused, size, batch, device, seconds, progress)
    figures = {
        f"{device}, {stage}: measured": Figure(ratio.median, "×", ratio.n, (ratio.low, ratio.high))
        for stage, ratio in timed.items()
    }
    forecast = {} if profile is None else StagePair.of(separated, fused, size, batch).predicted(profile)
    return figures | {f"{device}, {stage}: predicted": Figure(value, "×") for stage, value in forecast.items()}


def _time_stages(
    separated: ConvNet, fused: ConvNet, size: int, batch: int, device: str, seconds: float, progress: Progress
) -> dict[str, Ratio]:
    """Both in turns, one stage at a time with random weights: float32, channels-last, without gradients."""
    shapes = {group.name: group.output_shape for group in inspect(separated, size, batch).stages}
    names = list(shapes)
    groups = {name: [name] for name in mbconv_stages(separated)}
    groups |= {"first three": list(FIRST)} if set(FIRST) <= groups.keys() else {}
    found: dict[str, Ratio] = {}
    for done, (label, stages) in enumerate(groups.items()):
        progress(f"{label} on {device}", done, len(groups))
        shape = shapes[names[names.index(stages[0]) - 1]]
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        images = images.contiguous(memory_format=torch.channels_last)
        arms = {"MBConv": _with_weights(separated, stages, device), "fused": _with_weights(fused, stages, device)}
        found[label] = _timed(arms, images, device, seconds).ratio("fused", "MBConv")
    return found


def _timed(arms: Mapping[str, nn.Module], images: torch.Tensor, device: str, seconds: float) -> Timings:
    with torch.no_grad():
        calls = {name: (lambda module=module: module(images)) for name, module in arms.items()}
        return time_interleaved(calls, seconds=seconds, device=device)


def _with_weights(network: ConvNet, stages: Iterable[str], device: str) -> nn.Module:
    """These stages of a network on the meta device, with random weights, to evaluate."""
    paths = {stage.name: stage.modules for stage in network.stages}
    modules = [copy.deepcopy(network.get_submodule(path)) for stage in stages for path in paths[stage]]
    found = nn.Sequential(*modules).to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for module in found.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return found.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def draw_ratios(axes: Any, measured: Measured, device: str) -> None:
    """What `ratio_figures` found on a device, stage by stage."""
    found: dict[str, dict[str, Figure]] = {"measured": {}, "predicted": {}}
    for name, figure in measured.figures.items():
        where, _, rest = name.partition(", ")
        stage, _, what = rest.partition(": ")
        if where == device and what in found:
            found[what][stage.removeprefix("stage").replace("first three", "1–3")] = figure
    measured_and_predicted(axes, found["measured"], {stage: f.value for stage, f in found["predicted"].items()})
    axes.set(xlabel=f"stage, this {'CPU' if device == 'cpu' else 'GPU'}", ylabel="time, fused over MBConv")
    ratio_scale(axes, 0.2, 10)
