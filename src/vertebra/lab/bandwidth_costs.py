"""Memory traffic of a network against its arithmetic, and what limits its time on each device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vertebra.anatomy import Anatomy, inspect
from vertebra.anatomy.roofline import Device
from vertebra.errors import UsageError

from .charts import COLORS, device_axis
from .device_bounds import devices_by_flops_per_byte, flops_per_byte, is_gpu, machine_profile, memory_bound_share
from .experiment import Figure, Measured, Setup
from .forward_timing import time_forward, timed_batch
from .user_networks import check_runs, image_shape

BATCH = 16  # images that are counted


def count_network(name: str, network: nn.Module) -> Anatomy:
    """Count a network at the size that it is for.

    Raises:
        UsageError: it classifies no images, or computes nothing.
    """
    check_runs(name, network)
    counted = inspect(network, image_shape(network), BATCH)
    if not counted.macs:
        raise UsageError(f"{name} has no convolution and no linear layer, so there is no MAC to divide its bytes by.")
    return counted


def bandwidth_costs(counted: Anatomy, known: Mapping[str, Device] | None = None) -> Measured:
    """Bytes per MAC, FLOPs per byte, and the share of the time that is bound by memory on each device.

    Kernels are those of a compiler that fuses norms and activations where it can: no software moves less.
    """
    devices = devices_by_flops_per_byte(known)
    latencies = {device.key: counted.latency(device) for device in devices}
    kernels = [kernel for kernel, _ in next(iter(latencies.values())).kernels]
    traffic = sum(kernel.bytes for kernel in kernels)
    figures = {
        "MACs": Figure(counted.macs / counted.batch_size / 1e9, "GMACs an image"),
        "bytes per MAC": Figure(traffic / counted.macs, "bytes per MAC"),
        "FLOPs per byte": Figure(sum(kernel.operations for kernel in kernels) / traffic, "FLOPs per byte"),
    }
    shares = {key: 100 * memory_bound_share(latency) for key, latency in latencies.items()}
    figures |= {f"bound by memory, {key}": Figure(share, "%") for key, share in shares.items()}
    on_gpus = [shares[device.key] > 50 for device in devices if is_gpu(device)]
    figures["GPUs on which it is bound by memory"] = Figure(sum(on_gpus))
    places = {device.key: flops_per_byte(device) for device in devices}
    return Measured(figures, {"shares": shares, "devices": places, "GPUs": len(on_gpus)})


def times_per_mac(
    setup: Setup, networks: Mapping[str, nn.Module], counted: Mapping[str, Anatomy], size: int, seconds: float
) -> dict[str, Figure]:
    """Time per MAC of the first of two networks over the second's on this machine, measured in turns and predicted."""
    (first, second), batch = networks, timed_batch(setup.device, 1)
    macs = counted[second].macs / counted[first].macs
    setup.progress(f"{first} and {second} in turns")
    arms = {name: network.to(memory_format=torch.channels_last) for name, network in networks.items()}
    ratio = time_forward(setup, arms, (batch, *counted[first].input_shapes[0][1:]), seconds).ratio(first, second)
    interval = (macs * ratio.low, macs * ratio.high)
    figures = {"measured: time per MAC": Figure(macs * ratio.median, "×", ratio.n, interval)}
    if (profile := machine_profile(setup.device, setup.progress)) is not None:
        ms = [inspect(network, size, batch).latency(profile).total_ms for network in networks.values()]
        figures["predicted here: time per MAC"] = Figure(macs * ms[0] / ms[1], "×")
    return figures


def draw_bounds(axes: Any, measured: Measured) -> None:
    """What is bound by memory of each network of `measure_each`, device by device."""
    networks = measured.series["networks"]
    for (name, series), color in zip(networks.items(), COLORS * len(networks), strict=False):
        axes.plot(list(series["devices"].values()), list(series["shares"].values()), "o-", color=color, label=name)
    device_axis(axes, next(iter(networks.values()))["devices"])
    axes.set(ylabel="bound by memory, % of the predicted time", ylim=(-20, 103), yticks=range(0, 101, 20))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8)
